"""The GPU suite: correctness, repeatability and measurements of every operator (`make gpu`)."""

"""Training: loop, optimiser, checkpoints, processes, tracking."""

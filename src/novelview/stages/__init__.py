"""Command lines, one a stage of the workflow."""

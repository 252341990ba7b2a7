"""LaCT: window attention and fast weights that are trained on the context views while they are read (specs/lact.md)."""

"""novelview: a reproducible laboratory for feed-forward novel view synthesis."""

__version__ = "0.1.0"

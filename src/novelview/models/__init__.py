"""Models: one file or folder a paper, all behind `novelview.models.registry`."""

"""Models: one file a system, all behind `novelview.models.registry`."""

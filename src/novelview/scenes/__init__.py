"""Scenes: chunks, packed store, views, procedural rooms and imports."""

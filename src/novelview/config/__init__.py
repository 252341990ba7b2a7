"""Typed configuration: schema, composition with Hydra, digests."""

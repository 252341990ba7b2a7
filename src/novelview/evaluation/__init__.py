"""Evaluation: metrics, protocol, baselines, published numbers."""

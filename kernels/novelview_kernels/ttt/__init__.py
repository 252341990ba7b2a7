"""Test-time training updates (formulas in README.md)."""

"""The mini scale carried between bare machines: what is done travels from call to call (docs/mini.md)."""

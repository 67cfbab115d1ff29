"""Nothing of it is imported by name."""

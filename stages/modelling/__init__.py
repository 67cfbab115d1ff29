"""Base models: which there are, how they are loaded, prompted and decoded."""

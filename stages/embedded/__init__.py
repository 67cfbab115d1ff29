"""The embedded world: its drawings, its base model and its datasets."""

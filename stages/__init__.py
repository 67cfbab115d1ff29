"""The pipeline: one entrypoint per command (`python -m stages train ...`), and the rooms that they share."""

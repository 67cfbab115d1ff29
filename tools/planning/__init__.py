"""What a grid costs, before it is run; for `python -m tools.plan`."""

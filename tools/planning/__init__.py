"""What a grid costs, told before it is run; for `python -m tools.plan`."""

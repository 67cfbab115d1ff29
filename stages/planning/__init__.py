"""What a grid costs, told before it is run; for `python -m stages.plan`."""

"""Rewards: one file each, named as in `params.yaml`."""

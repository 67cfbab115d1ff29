"""How it is taught: one file per method, named as in `params.yaml`, and the rewards."""

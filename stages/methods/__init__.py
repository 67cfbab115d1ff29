"""Methods of fine-tuning: one file each, named as in `params.yaml`."""

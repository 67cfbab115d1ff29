"""Families of models, one file each, named as transformers names its `model_type`; none but these files names them."""

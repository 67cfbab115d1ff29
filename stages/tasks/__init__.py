"""Tasks: one file each; and the samples that are drawn for them."""

"""A model on the samples of a partition, and the scores of its completions."""

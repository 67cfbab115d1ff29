"""How it is computed: models, training, generation, tracking."""

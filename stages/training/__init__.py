"""How a model is trained: supervised and by reinforcement."""

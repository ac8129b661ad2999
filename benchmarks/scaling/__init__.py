"""How the cost of a training step grows with tokens, layers, trained weights and steps."""

"""Two sides, one judgement: logits, tokens and layers compared."""

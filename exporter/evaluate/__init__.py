"""How an artifact predicts held-out text, beside the checkpoint."""

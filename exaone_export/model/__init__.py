"""What a model is: its architecture, read from config.json in every spelling, and its tensors."""

"""The model in PyTorch, traced, and run a layer at a time."""

"""What each target, precision and engine asks of the graph and of the cache."""

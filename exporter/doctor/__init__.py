"""What works on this machine, why the rest does not, and what mends it; loads neither torch nor a model."""

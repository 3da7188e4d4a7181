"""What the engine's thread does, and in which order."""

"""Checkpoint to artifact: read, trace, rewrite, write."""

"""Checkpoints, read without being trusted: files, headers, tensors, rows."""

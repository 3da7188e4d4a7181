"""Checkpoints that were published quantized: their codes and scales, read as they are stored."""

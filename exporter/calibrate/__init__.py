"""Calibration: prompts through a checkpoint, layer by layer, to a scales file."""

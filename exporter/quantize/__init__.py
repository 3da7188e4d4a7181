"""Weights in the layouts of the quantized operators."""

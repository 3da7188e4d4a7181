"""A calibration's parts: what is asked for, one layer's work, what survives an interruption, which layers are kept."""

"""``config.json``: read in every spelling, and handed on in one."""

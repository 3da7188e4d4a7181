"""Defaults of generation that an artifact's files give, without torch and transformers."""

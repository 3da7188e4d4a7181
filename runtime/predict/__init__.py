"""Texts to labels, spans and vectors: the heads of an artifact, over many texts."""

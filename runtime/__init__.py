"""Artifact to tokens: sessions, the hybrid cache, generation."""

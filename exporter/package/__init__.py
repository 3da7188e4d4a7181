"""Packages of an artifact for servers; neither torch nor a runtime is imported."""

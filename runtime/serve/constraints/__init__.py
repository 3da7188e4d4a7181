"""Answers that are held to a form."""

"""Paths, durable files, folders that are held, and strict reading of JSON and Unicode."""

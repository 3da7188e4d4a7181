"""Paths, durable files, locked and held folders, and strict reading of JSON and Unicode."""

"""The plan of an export: options, target, recipe and caches, decided before any weight is read."""

"""An artifact on several machines, by Ray."""

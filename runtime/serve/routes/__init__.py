"""The paths of the server, one module each."""

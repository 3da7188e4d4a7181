"""How fast a server answers over HTTP, against how many ask at once; without torch and transformers."""

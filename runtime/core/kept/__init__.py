"""A prompt with its caches in a file, from which later processes go on."""

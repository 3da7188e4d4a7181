"""From an artifact to a streamed answer, without torch and transformers."""

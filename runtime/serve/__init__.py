"""An artifact behind OpenAI's HTTP protocol, without torch and transformers."""

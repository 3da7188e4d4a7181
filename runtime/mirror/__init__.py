"""The calls of transformers' generate(), answered by an artifact."""

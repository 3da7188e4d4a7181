"""The Hugging Face hub: names of its models, files of theirs, and what it says when it refuses."""

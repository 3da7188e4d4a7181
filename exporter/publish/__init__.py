"""Publishing an artifact on the Hugging Face hub; neither torch nor a runtime is imported."""

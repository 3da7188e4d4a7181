"""transformers' tokenizer and chat prompts as tensors, on the lean ones of `exaone_export.runtime.text`."""

"""How fast an artifact runs: prompts, tokens at a depth of context, memory, and the share of what memory allows."""

"""A second graph for prompts beside that for answers: which one runs a step, and the session of both."""

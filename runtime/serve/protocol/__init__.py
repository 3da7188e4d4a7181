"""OpenAI's protocol: what a request may hold, and what an answer looks like."""

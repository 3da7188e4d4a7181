"""Answers as the objects and events of OpenAI's protocol, a form a path."""

"""Answers held to a form: JSON, a JSON schema, a regular expression, a choice, tool calls."""

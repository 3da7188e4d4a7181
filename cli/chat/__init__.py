"""``exaone-export chat``: a conversation in a terminal, or line by line; loads neither torch nor transformers."""

from .command import command

__all__ = ["command"]

"""``exaone-export doctor``: what works on this machine and what fixes the rest; loads neither torch nor a model."""

from .command import command

__all__ = ["command"]

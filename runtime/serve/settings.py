"""What the server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from exaone_export.errors import UnsupportedOptionError

__all__ = ["KEY_VARIABLE", "LONGEST_NAME", "Settings"]

KEY_VARIABLE = "EXAONE_EXPORT_API_KEY"
"""Of the environment, with one API key."""

LONGEST_NAME = 200
"""Characters of what requests call the model."""


@dataclass(frozen=True)
class Settings:
    """How an artifact is served.

    Attributes:
        host: The address to listen on.
        port: The port; 0 for a free one.
        model_name: What requests call the model.
        api_keys: Any of them opens the server; without one, only this machine may use it.
        allow_origins: Origins of web pages that may use it from a browser; ``*`` for any.
        max_body_bytes: The most bytes of a request.
        max_prompt_tokens: The most tokens of a prompt; None for what the artifact holds.
        request_seconds: The longest time that a request may take, its wait included.
        grace_seconds: When the server stops, the time that running requests have to finish.
        pooling: Of embeddings: the vector of the ``last`` token, or the ``mean`` of all.
        log_json: Whether the log is JSON, an object a line.

    Raises:
        UnsupportedOptionError: The name is empty or too long, or other machines could use the server without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "exaone"
    api_keys: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    max_prompt_tokens: int | None = None
    request_seconds: float = 600
    grace_seconds: float = 30
    pooling: str = "last"
    log_json: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.model_name) <= LONGEST_NAME:
            raise UnsupportedOptionError(
                f"the model is called {self.model_name!r:.100}; choose a name of 1 to {LONGEST_NAME} characters with "
                f"--model-name."
            )
        if not self.api_keys and not self.is_local:
            raise UnsupportedOptionError(
                f"the host is {self.host!r:.100}, where other machines can connect, and there is no API key; pass "
                f"--api-key-file, or listen on 127.0.0.1."
            )

    @property
    def is_local(self) -> bool:
        """Whether this machine alone can connect."""
        return self.host in ("127.0.0.1", "::1", "localhost")

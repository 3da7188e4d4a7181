"""The defaults of ``generate()`` that a ``generation_config.json`` gives, held to what an artifact can honour.

The file comes from the checkpoint unchanged, so that its values are not the caller's errors. What can be honoured
stays; the rest is left out, with a warning that names the file and the key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from exaone_export.errors import ArtifactError

from ..defaults.reading import NAME, read_generation_config

__all__ = ["fit_to_one_answer", "no_defaults", "read_defaults"]

_log = logging.getLogger(__name__)


def read_defaults(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """The folder's defaults, or the model's own special tokens where it has no such file.

    A value that is left out is logged by this module as a warning.

    Args:
        folder: An artifact.
        config: The model's, for the vocabulary.

    Raises:
        ArtifactError: The file is not JSON, or its values contradict each other.
    """
    kept, flaws = read_generation_config(folder, config.vocab_size)
    if kept is None:
        return GenerationConfig.from_model_config(config)
    path = folder / NAME
    for flaw in flaws:
        _log.warning("%s %s.", path, flaw)
    try:
        return GenerationConfig(**kept)
    except (AttributeError, TypeError, ValueError) as error:
        shown = " ".join(str(error).split())
        raise ArtifactError(
            f"{path} has values that transformers refuses ({shown.rstrip('.')}); correct it in the checkpoint and "
            f"export the model again."
        ) from error


@contextmanager
def no_defaults(model: Any) -> Iterator[None]:
    """Let ``model.generate()`` use its arguments alone, for tokens and times that are compared."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def fit_to_one_answer(defaults: GenerationConfig, settings: Mapping[str, Any], tokenizer: Any) -> None:
    """Remove from an artifact's defaults what a command that prints one answer cannot use, with warnings.

    Args:
        defaults: Changed in place.
        settings: What the command passes to ``generate()``.
        tokenizer: As `exaone_export.runtime.mirror.text.tokenizer.load_tokenizer` gives it.
    """
    if (defaults.num_return_sequences or 1) > 1:
        _log.warning(
            "%s gives num_return_sequences=%s, which is ignored: one answer is printed.",
            NAME,
            defaults.num_return_sequences,
        )
    for name in ("num_return_sequences", "return_dict_in_generate", "output_scores", "output_logits"):
        setattr(defaults, name, None)  # the answer is the same
    if settings.get("num_beams", 1) > 1:
        defaults.prompt_lookup_num_tokens = None
    if "prompt_lookup_num_tokens" in settings:
        defaults.use_cache = defaults.assistant_ensemble_weight = None
    if defaults.stop_strings is not None:
        given = defaults.stop_strings
        given = [given] if isinstance(given, str) else given
        unknown = [text for text in given if not _can_end(text, tokenizer)]
        if unknown:
            _log.warning(
                "%s gives stop_strings %r, which is ignored: no token of the vocabulary ends it.", NAME, unknown
            )
        defaults.stop_strings = [text for text in given if text not in unknown] or None


def _can_end(text: str, tokenizer: Any) -> bool:
    """Whether a token ends with the text's last character; transformers' stop strings fail without one."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    said: str = tokenizer.decode(tokens)
    return said.endswith(text[-1])

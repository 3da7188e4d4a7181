"""Predict: all lines are encoded, then run in batches of like lengths and given back in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.progress import Progress, Step, silent

from ..mirror.heads import open_model
from ..text.tokenizer import load_tokenizer
from .batches import batches, padded
from .encoding import encode_lines
from .lines import Line
from .options import Options, check_head, rows_at_once
from .results import result_of

__all__ = ["predict"]

_WINDOW = 32
"""Batches whose texts are sorted together; their results are kept until all of them are there."""


def predict(
    artifact: Artifact,
    lines: Iterable[Line],
    options: Options | None = None,
    *,
    batch: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Iterator[dict[str, Any]]:
    """Predict with an artifact of any head but a causal language model's.

    Args:
        artifact: The opened artifact.
        lines: Of `exaone_export.runtime.predict.lines`, read to their end before the model is loaded.
        options: For the artifact's head.
        batch: The most texts of a batch; by default 8, or as many as the artifact takes.
        threads: As of ``from_pretrained``.
        progress: Told how far the work is.

    Yields:
        A result a line, in the order of the lines, as values of JSON with the line's id:

        - sequence classification: ``label``, ``score``, ``scores`` by score; with several labels a text, ``labels``
        - token classification: ``entities``, each with ``label``, ``score``, ``start``, ``end``, ``text``
        - question answering: ``answer``, ``score``, ``start``, ``end``; with ``top_k``, ``answers``
        - hidden states: ``vector``

    Raises:
        ArtifactError: The artifact cannot be read, or gives numbers that are not finite.
        PromptError: A line cannot be used; nothing has been run.
        TargetError: The artifact is of a causal language model, or cannot run here.
        UnsupportedOptionError: An option is not of the artifact's head.
    """
    options = options or Options()
    check_head(artifact, options)
    rows = rows_at_once(artifact, batch)
    spec = artifact.spec
    with artifact.unchanged():
        tokenizer = load_tokenizer(artifact.folder)
    progress("encode", 0, 1)
    texts = encode_lines(lines, tokenizer, artifact)
    progress("load", 0, 1)
    with open_model(artifact, threads=threads) as model:
        result = result_of(spec.head.kind, model, tokenizer, options)
        step = Step(progress, "predict", len(texts))
        for start in range(0, len(texts), _WINDOW * rows):
            window = texts[start : start + _WINDOW * rows]
            found: list[dict[str, Any]] = [{} for _ in window]
            for chosen in batches([len(text) for text in window], rows):
                input_ids, mask = padded([window[index].tokens for index in chosen], spec.pad_token_id or 0)
                output = model(input_ids=input_ids, attention_mask=mask, use_cache=False)
                for row, index in enumerate(chosen):
                    found[index] = {"id": window[index].id, **result(window[index], output, row)}
                step(len(chosen))
            yield from found

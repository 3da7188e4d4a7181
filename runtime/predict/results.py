"""What is made of a head's outputs for one text: labels, entities, answers or a vector, as values of JSON.

Legend: S tokens of the text, L labels, H hidden size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from exaone_export.errors import ArtifactError
from exaone_export.model.heads import (
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

from .encoding import Encoded
from .options import Options
from .spans import Span, best_spans

__all__ = ["Result", "result_of"]

Result = Callable[[Encoded, Any, int], dict[str, Any]]
"""Called with a text, the model's output for its batch, and the text's row."""

_ANSWER_TOKENS = 32


def result_of(kind: str, model: Any, tokenizer: Any, options: Options) -> Result:
    """How results of a head are made.

    Args:
        kind: The head's, a key of `exaone_export.model.heads.ARCHITECTURES`.
        model: With transformers' interface.
        tokenizer: The artifact's.
        options: For this head.
    """
    if kind == SEQUENCE_CLASSIFICATION:
        return _labels(model, tokenizer, options)
    if kind == TOKEN_CLASSIFICATION:
        return _entities(model, tokenizer, options)
    return {QUESTION_ANSWERING: _answers, HIDDEN_STATES: _vectors}[kind](options)


def _labels(model: Any, tokenizer: Any, options: Options) -> Result:
    from transformers import TextClassificationPipeline  # seconds, which other heads do without

    pipeline = TextClassificationPipeline(model=model, tokenizer=tokenizer, device=model.device)
    several = model.config.problem_type == "multi_label_classification"

    def result(text: Encoded, output: Any, row: int) -> dict[str, Any]:
        logits_L = _finite(output.logits[row], text)
        scores = pipeline.postprocess({"logits": logits_L[None]}, top_k=None)
        scores = sorted(({**found, "score": _number(found["score"])} for found in scores), key=lambda f: -f["score"])
        given: dict[str, Any] = dict(scores[0])
        if several:
            given["labels"] = [found["label"] for found in scores if found["score"] > 0.5]
        return {**given, "scores": scores[: options.top_k]}

    return result


def _entities(model: Any, tokenizer: Any, options: Options) -> Result:
    from transformers import TokenClassificationPipeline  # as above
    from transformers.pipelines.token_classification import AggregationStrategy

    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer, device=model.device)
    aggregation = AggregationStrategy(options.aggregation or "simple")

    def result(text: Encoded, output: Any, row: int) -> dict[str, Any]:
        assert text.offsets is not None
        assert text.inside is not None
        logits_SL = _finite(output.logits[row, -len(text) :], text)
        outputs = {
            "logits": logits_SL[None],
            "sentence": text.text,
            "input_ids": torch.from_numpy(text.tokens)[None],
            "offset_mapping": torch.from_numpy(text.offsets)[None],
            "special_tokens_mask": torch.from_numpy(~text.inside)[None],
        }
        with warnings.catch_warnings():
            # transformers takes blanks for the ends of words, and says so at every token.
            warnings.filterwarnings("ignore", "Tokenizer does not support real words")
            found = pipeline.postprocess([outputs], aggregation_strategy=aggregation)
        return {"entities": [_entity(entity, text.text) for entity in found]}

    return result


def _entity(found: Mapping[str, Any], text: str) -> dict[str, Any]:
    label = found.get("entity_group", found.get("entity"))
    start, end = found["start"], found["end"]
    return {"label": label, "score": _number(found["score"]), "start": start, "end": end, "text": text[start:end]}


def _answers(options: Options) -> Result:
    most_tokens, count = options.max_answer_tokens or _ANSWER_TOKENS, options.top_k or 1

    def result(text: Encoded, output: Any, row: int) -> dict[str, Any]:
        assert text.offsets is not None
        assert text.inside is not None
        inside, offsets = torch.from_numpy(text.inside), text.offsets[text.inside]

        def answer(span: Span) -> dict[str, Any]:
            start, end = int(offsets[span.first, 0]), int(offsets[span.last, 1])
            start, end = _trimmed(text.text, start, end)
            return {"answer": text.text[start:end], "score": _number(span.score), "start": start, "end": end}

        start_S, end_S = (
            _finite(logits[row, -len(text) :], text)[inside] for logits in (output.start_logits, output.end_logits)
        )
        answers = [answer(span) for span in best_spans(start_S, end_S, most_tokens=most_tokens, count=count)]
        return answers[0] if options.top_k is None else {**answers[0], "answers": answers}

    return result


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Where a span is without the blanks at its ends: tokens often begin with one."""
    found = text[start:end]
    left = len(found) - len(found.lstrip())
    return (start + left, end - (len(found) - len(found.rstrip()))) if found.strip() else (start, end)


def _vectors(options: Options) -> Result:
    def result(text: Encoded, output: Any, row: int) -> dict[str, Any]:
        states_SH = _finite(output.last_hidden_state[row, -len(text) :], text)
        vector_H = states_SH.mean(0) if options.pooling == "mean" else states_SH[-1]
        if options.normalize:
            vector_H = torch.nn.functional.normalize(vector_H, dim=0)
        return {"vector": [_number(value) for value in vector_H.numpy()]}

    return result


def _finite(values: torch.Tensor, text: Encoded) -> torch.Tensor:
    """The values in float32, in the host's memory."""
    values = values.float().cpu()
    if not values.isfinite().all():
        raise ArtifactError(
            f"the artifact gives numbers for {text.line} that are not finite; export the model with --precision "
            f"float32, or --compute-type float32 beside a quantized precision."
        )
    return values


def _number(value: Any) -> float:
    """A float32 with as many digits as tell it from its neighbours."""
    return float(str(np.float32(value)))

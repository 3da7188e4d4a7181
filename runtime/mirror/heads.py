"""Models whose head does not give next tokens: hidden states, classification, question answering.

Each is used as transformers' class of the same name is, and gives the same outputs; an argument that it does not honour
is refused by name. What padded columns give is zero.

Legend: B batch, S columns of a call, P columns that the cache has seen, H hidden_size, N labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.model.heads import (
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

from ..sessions.prefill.choice import BOTH, GraphChoice
from . import options
from .cache import CACHE_NAME, HybridCache
from .causal_lm import ExaoneForCausalLM
from .pipelines import name_for_pipelines
from .pretrained import ExaonePreTrainedModel

__all__ = [
    "ExaoneForQuestionAnswering",
    "ExaoneForSequenceClassification",
    "ExaoneForTokenClassification",
    "ExaoneModel",
    "open_model",
]


class ExaoneModel(ExaonePreTrainedModel):
    """The body alone: the last hidden states of every column."""

    kind = HIDDEN_STATES

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Run the model on ``S`` more columns.

        Args:
            input_ids: ``[B, S]`` token ids.
            attention_mask: ``[B, P + S]``, 0 for padding; on either side where the cache is empty.
            position_ids: Those that follow from the mask; others are refused.
            past_key_values: A cache of this model, which is advanced in place.
            inputs_embeds: Refused.
            use_cache: Whether the cache is returned; True by default.
            output_hidden_states: Whether what every layer takes in is returned too; by default if the artifact gives
                it.
            return_dict: Whether an object is returned; False for a tuple.
            cache: ``past_key_values`` under the name that it has from transformers 5.24 on.
            kwargs: ``token_type_ids``, which the model has no use for; others are refused.

        Returns:
            Hidden states ``[B, S, H]`` float32, and the cache.

        Raises:
            CacheInUseError: Another thread uses the cache.
            CancelledError: Somebody called the cache's `cancel`.
            PromptError: The tokens, their padding or their number cannot be run.
            UnsupportedOptionError: An argument is given that is not honoured.
        """
        _refuse(kwargs, inputs_embeds=inputs_embeds)
        gives_all = len(self.session.output_shapes) > 1
        if output_hidden_states and not gives_all:
            raise UnsupportedOptionError(
                "output_hidden_states is not supported by this artifact, which gives the last hidden states alone; "
                "omit it, or export the model with --hidden-states."
            )
        cache = self.own_cache(past_key_values, cache)
        last, *inner = self.outputs(input_ids, attention_mask, position_ids, cache)
        states = (*inner, last) if gives_all and output_hidden_states is not False else None
        kept = None if use_cache is False else cache
        output = BaseModelOutputWithPast(last_hidden_state=last, hidden_states=states, **{CACHE_NAME: kept})
        return output.to_tuple() if return_dict is False else output


class ExaoneForSequenceClassification(ExaonePreTrainedModel):
    """A classification of every row, by its last token that is not the padding token."""

    kind = SEQUENCE_CLASSIFICATION

    @property
    def num_labels(self) -> int:
        """N."""
        return int(self.config.num_labels)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        labels: None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Run the model on ``S`` more columns.

        Args:
            input_ids: ``[B, S]`` token ids. The last one of a row that is not ``config.pad_token_id`` decides, as in
                transformers, whatever the mask says.
            attention_mask: ``[B, P + S]``, 0 for padding; on either side where the cache is empty.
            position_ids: Those that follow from the mask; others are refused.
            past_key_values: A cache of this model, which is advanced in place: for rows that begin alike, run what they
                share once and copy the cache for every row.
            inputs_embeds: Refused.
            labels: Refused.
            use_cache: Whether the cache is returned; True by default.
            return_dict: Whether an object is returned; False for a tuple.
            cache: ``past_key_values`` under the name that it has from transformers 5.24 on.
            kwargs: ``token_type_ids``, which the model has no use for; others are refused.

        Returns:
            Logits ``[B, N]`` float32, and the cache.

        Raises:
            CacheInUseError: Another thread uses the cache.
            CancelledError: Somebody called the cache's `cancel`.
            PromptError: The tokens, their padding or their number cannot be run, or there are several rows and no
                padding token.
            UnsupportedOptionError: An argument is given that is not honoured.
        """
        _refuse(kwargs, inputs_embeds=inputs_embeds, labels=labels)
        tokens = options.check_tokens(input_ids, self.session.vocab_size)
        cache = self.own_cache(past_key_values, cache)
        deciding_B = self._deciding_columns(tokens, attention_mask)
        (logits_B1N,) = self.outputs(tokens, attention_mask, position_ids, cache, deciding_B[:, None])
        kept = None if use_cache is False else cache
        output = SequenceClassifierOutputWithPast(logits=logits_B1N[:, 0], **{CACHE_NAME: kept})
        return output.to_tuple() if return_dict is False else output

    def _deciding_columns(self, tokens_BS: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        rows, columns = tokens_BS.shape
        pad = self.config.pad_token_id
        if pad is None:
            if rows > 1:
                raise PromptError(
                    f"the batch has {rows} rows, and the model has no pad_token_id by which the last token of each is "
                    f"found; pass one row at a time, or set model.config.pad_token_id."
                )
            return torch.tensor([columns - 1])
        # As transformers computes it: a row of padding alone is decided by its first token.
        deciding_B = (torch.arange(columns) * (tokens_BS != pad)).argmax(1)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            seen_B = attention_mask[:, -columns:].cpu().gather(1, deciding_B[:, None])[:, 0]
            if not seen_B.all():
                row = int((seen_B == 0).nonzero()[0])
                if bool((tokens_BS[row] == pad).all()):
                    raise PromptError(f"row {row} of the batch holds only padding tokens; give every row another.")
                raise PromptError(
                    f"row {row} of the batch is padded with other tokens than {pad}, the model's pad_token_id; pad it "
                    f"with that one."
                )
        return deciding_B


class ExaoneForTokenClassification(ExaonePreTrainedModel):
    """A classification of every token."""

    kind = TOKEN_CLASSIFICATION

    @property
    def num_labels(self) -> int:
        """N."""
        return int(self.config.num_labels)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        labels: None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Run the model on ``S`` more columns; the arguments are those of `ExaoneForSequenceClassification.forward`.

        Returns:
            Logits ``[B, S, N]`` float32.

        Raises:
            ExaoneExportError: As `ExaoneModel.forward`.
        """
        _refuse(kwargs, inputs_embeds=inputs_embeds, labels=labels)
        del use_cache  # no cache is returned, as in transformers
        cache = self.own_cache(past_key_values, cache)
        (logits,) = self.outputs(input_ids, attention_mask, position_ids, cache)
        output = TokenClassifierOutput(logits=logits)
        return output.to_tuple() if return_dict is False else output


class ExaoneForQuestionAnswering(ExaonePreTrainedModel):
    """Of every token, how likely an answer begins or ends with it."""

    kind = QUESTION_ANSWERING

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        start_positions: None = None,
        end_positions: None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Run the model on ``S`` more columns; the arguments are those of `ExaoneModel.forward`, and positions refused.

        Returns:
            Logits of the answer's first and of its last token, each ``[B, S]`` float32.

        Raises:
            ExaoneExportError: As `ExaoneModel.forward`.
        """
        _refuse(kwargs, inputs_embeds=inputs_embeds, start_positions=start_positions, end_positions=end_positions)
        del use_cache  # no cache is returned, as in transformers
        cache = self.own_cache(past_key_values, cache)
        start, end = self.outputs(input_ids, attention_mask, position_ids, cache)
        output = QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
        return output.to_tuple() if return_dict is False else output


_CLASSES: Mapping[str, type[ExaonePreTrainedModel]] = {
    model.kind: model
    for model in (
        ExaoneForCausalLM,
        ExaoneModel,
        ExaoneForSequenceClassification,
        ExaoneForTokenClassification,
        ExaoneForQuestionAnswering,
    )
}
for _kind, _class in _CLASSES.items():
    name_for_pipelines(_kind, _class.__name__)


def open_model(
    artifact: Artifact,
    *,
    threads: int | None = None,
    prefill_chunk_size: int | None = None,
    graphs: GraphChoice = BOTH,
) -> ExaonePreTrainedModel:
    """Load an opened artifact with the class of its head.

    Args:
        artifact: The opened artifact.
        threads: As `ExaonePreTrainedModel.from_pretrained`.
        prefill_chunk_size: As `ExaonePreTrainedModel.from_pretrained`.
        graphs: As `ExaonePreTrainedModel.from_pretrained`.

    Raises:
        ExaoneExportError: As `ExaonePreTrainedModel.from_artifact`.
    """
    model = _CLASSES[artifact.spec.head.kind]
    return model.from_artifact(artifact, threads=threads, prefill_chunk_size=prefill_chunk_size, graphs=graphs)


def _refuse(kwargs: Mapping[str, Any], **arguments: Any) -> None:
    """Refuse arguments that no exported model takes; a tokenizer's types of tokens are ignored, as in transformers."""
    others = {name: value for name, value in kwargs.items() if name != "token_type_ids"}
    options.refuse_unknown({**others, **arguments})

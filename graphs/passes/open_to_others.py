"""What lets a program that knows only the field's common inputs run a graph, such as onnxruntime-genai."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exaone_export.model.heads import NEXT_LOGITS
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout

from ..topology import only_user

KEPT, CACHE_ROWS = "logits_to_keep", "cache_rows"


class OpenToOthers(ir.passes.InPlacePass):
    """Make a causal language model's graph one that onnxruntime-genai runs as it is.

    1. ``logits_to_keep`` has a default, an initializer of its name: the last token's logits alone.
    2. The last position's logits are an output of their own, ``next_logits``: such a program sizes its buffer by a
       number of positions that is a constant, and a buffer of another size is refused.
    3. The rows of a cache that never evicts are the caller's choice, up to the maximum length: such a program allocates
       as many as it may generate tokens.
    4. A row brings at most as many tokens as its mask has ones: such a program gives its padding, behind the tokens of
       a shorter prompt, positions that are not negative.

    Left alone: graphs of other heads, and the caches that evict.

    Args:
        spec: The architecture.
        layout: The caches.
    """

    def __init__(self, spec: ModelSpec, layout: CacheLayout) -> None:
        super().__init__()
        self.spec, self.layout = spec, layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change inputs, outputs and the number of tokens in place."""
        if not self.spec.head.is_causal_lm:
            return ir.passes.PassResult(model, modified=False)
        inputs = {str(value.name): value for value in model.graph.inputs}
        kept, logits = inputs[KEPT], model.graph.outputs[0]
        assert logits.shape is not None
        kept.const_value = ir.tensor(np.zeros(1, np.int64), name=KEPT)
        model.graph.register_initializer(kept)
        for value in (*model.graph.inputs, *model.graph.outputs):
            parts = str(value.name).split(".")
            if not str(value.name).startswith((PAST, PRESENT)) or value.shape is None:
                continue
            if not self.layout.layers[int(parts[1])].evicts(self.layout.max_length):
                value.shape = ir.Shape((*value.shape[:2], CACHE_ROWS, *value.shape[3:]))
        _bound_lengths(model, inputs)
        tape = ir.tape.Tape()
        bounds = [tape.op("Constant", [], {"value_ints": [bound]}) for bound in (-1, np.iinfo(np.int64).max, 1)]
        last = tape.op("Slice", [logits, *bounds])
        last.name, last.type = NEXT_LOGITS, logits.type
        last.shape = ir.Shape((logits.shape[0], 1, *logits.shape[2:]))
        model.graph.extend(tape.nodes)
        model.graph.outputs.append(last)
        return ir.passes.PassResult(model, modified=True)


def _bound_lengths(model: ir.Model, inputs: dict[str, ir.Value]) -> None:
    total = only_user(inputs["attention_mask"], lambda node: node.op_type == "ReduceSum")
    fresh = inputs["position_ids"]
    for kind in ("GreaterOrEqual", "Cast", "ReduceSum"):
        node = only_user(fresh, lambda node, kind=kind: node.op_type == kind)  # type: ignore[misc]
        if node is None:
            raise ir.passes.PreconditionError("the graph does not count the tokens of a step by their positions")
        fresh = node.outputs[0]
    if total is None:
        raise ir.passes.PreconditionError("the graph does not sum its attention mask")
    tape = ir.tape.Tape()
    users = [(user, index) for user, index in fresh.uses()]
    bound = tape.op("Min", [fresh, total.outputs[0]])
    bound.type, bound.shape = fresh.type, fresh.shape
    for user, index in users:
        user.replace_input_with(index, bound)
    counted = fresh.producer()
    assert counted is not None
    last = max((total, counted), key=list(model.graph).index)
    model.graph.insert_after(last, tape.nodes)

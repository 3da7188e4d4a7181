"""K-EXAONE's config: which layers are sparse, what its router does, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from exaone_export.errors import ConfigError
from exaone_export.graphs.passes.repeat_layers import kinds_of
from exaone_export.model.config.normalized import normalize
from exaone_export.model.config.reading import read_spec
from exaone_export.model.published import PUBLISHED
from exaone_export.model.tensors import expected_tensors, layer_products, num_parameters
from exaone_export.targets.cache_layout import CacheLayout
from tests.sparse_models import SPARSE, sparse_spec


def test_the_published_model_has_236_billion_parameters() -> None:
    spec = PUBLISHED["236b-a23b"]
    assert num_parameters(spec) == 236_571_156_352
    assert [layer.sparse is None for layer in spec.layers] == [True] + [False] * 47
    assert [layer.window for layer in spec.layers[:4]] == [128, 128, 128, 0]
    assert [layer.rotary for layer in spec.layers[:4]] == [True, True, True, False]
    assert (spec.norm_position, spec.qk_norm) == ("input", True)


def test_a_dense_and_a_sparse_layer_are_of_different_kinds() -> None:
    spec = PUBLISHED["236b-a23b"]
    kinds = kinds_of(spec, CacheLayout.plan(spec.layers, 1024, 0, 0))
    assert kinds[:5] == (0, 1, 1, 2, 1)  # alike in window and rotation, the first is dense


def test_a_sparse_layers_tensors_are_those_that_transformers_saves() -> None:
    spec = sparse_spec()
    tensors = expected_tensors(spec)
    assert tensors["model.layers.0.mlp.gate_proj.weight"] == (48, 32)
    assert tensors["model.layers.1.mlp.gate.weight"] == (8, 32)
    assert tensors["model.layers.1.mlp.e_score_correction_bias"] == (8,)
    assert tensors["model.layers.1.mlp.experts.7.up_proj.weight"] == (16, 32)
    assert tensors["model.layers.1.mlp.shared_experts.down_proj.weight"] == (32, 16)
    assert "model.layers.1.mlp.gate_proj.weight" not in tensors
    assert layer_products(spec, 1)["down"].inputs(spec) == 16


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_layer_types": None, "first_k_dense_replace": 1},
        {"mlp_layer_types": None, "is_moe_layer": [False, True, True]},
        {"mlp_layer_types": None, "first_k_dense_replace": 1, "is_moe_layer": [False, True, True]},
        {"first_k_dense_replace": 3},  # the default that transformers saves beside a list
        {"architectures": ["ExaoneMoeForCausalLM"]},
        {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        {"swiglu_limits": None, "sliding_windows": []},
    ],
)
def test_every_spelling_is_read_as_one_model(changes: dict[str, Any]) -> None:
    spec = read_spec(SPARSE | changes)
    assert spec == sparse_spec()
    assert read_spec(normalize(SPARSE | changes)) == spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mlp_layer_types": None}, "first_k_dense_replace is missing"),
        ({"mlp_layer_types": "sparse"}, "mlp_layer_types is 'sparse', not a list"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types has 2 entries for num_hidden_layers 3"),
        ({"is_moe_layer": [True, True, True]}, "is_moe_layer and mlp_layer_types disagree"),
        ({"num_experts": None}, "num_experts is None"),
        ({"num_shared_experts": 0}, "num_shared_experts is 0"),
        ({"n_group": 3}, "num_experts is 8, which is not a multiple of n_group (3)"),
        ({"n_group": 8, "topk_group": 4}, "num_experts is 8 for n_group 8"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5, and there are 4 experts"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax', and the router of K-EXAONE has sigmoid"),
        ({"swiglu_limits": [7.0, 7.0, 7.0]}, "config.json has swiglu_limits, which limits"),
        ({"architectures": ["ExaoneMoeForSequenceClassification"]}, "ExaoneMoEForCausalLM"),
    ],
)
def test_what_is_not_this_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec(SPARSE | changes)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["num_experts", "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group"])
def test_what_decides_the_numbers_must_be_written(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        read_spec({name: value for name, value in SPARSE.items() if name != key})

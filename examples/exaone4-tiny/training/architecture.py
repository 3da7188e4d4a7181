"""The tiny hybrid EXAONE 4 before training: its configuration and its initial weights."""

from __future__ import annotations

import torch
from transformers import Exaone4Config, Exaone4ForCausalLM, GenerationConfig, PreTrainedTokenizerFast

LAYER_PATTERN = "LLLG"
NUM_LAYERS = 8
SLIDING_WINDOW = 32
OUTPUT_NORM = 0.2


def configuration(tokenizer: PreTrainedTokenizerFast) -> Exaone4Config:
    """The 32B's architecture with small numbers: window 4,096 -> 32, context 131,072 -> 2,048."""
    kinds = {"L": "sliding_attention", "G": "full_attention"}
    return Exaone4Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        sliding_window=SLIDING_WINDOW,
        sliding_window_pattern=LAYER_PATTERN,
        layer_types=[kinds[LAYER_PATTERN[layer % len(LAYER_PATTERN)]] for layer in range(NUM_LAYERS)],
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def initialize(config: Exaone4Config) -> Exaone4ForCausalLM:
    """A model that can be trained in minutes.

    The norms stand on the sublayers' outputs, so each sublayer adds a vector of unit size whatever its weights. With
    the usual embeddings of 0.02 the words would drown in sixteen of them: start with words of unit size and output
    norms of 0.2.
    """
    model = Exaone4ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight.fill_(OUTPUT_NORM)
            layer.post_feedforward_layernorm.weight.fill_(OUTPUT_NORM)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    return model

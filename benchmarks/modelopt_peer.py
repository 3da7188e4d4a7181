"""NVIDIA Model Optimizer: its own configurations, fake-quantized in PyTorch, judged by this package's evaluation.

It runs in an environment of its own, which has this package without its dependencies: the evaluation needs PyTorch
alone.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

REQUIREMENTS = ("nvidia-modelopt==0.47.0", "transformers==5.23.0", "requests", "torch==2.13.0")
PEER_CONFIGS = {
    "int8": "INT8_SMOOTHQUANT_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "int4": "INT4_AWQ_CFG",
    "int8, no smoothing": "INT8_DEFAULT_CFG",
    "int4, rounded to nearest": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
}


def measure(model: Path, tokens: dict[str, Any], configs: Sequence[str]) -> dict[str, Any]:
    """Quantize the checkpoint by each configuration, and evaluate it on the held-out tokens."""
    import modelopt.torch.quantization as mtq
    from transformers import Exaone4ForCausalLM

    from exaone_export.runtime.parity.evaluation import Sample, evaluate
    from exaone_export.runtime.parity.sides import TorchSide

    baseline = Exaone4ForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    calibration = [torch.tensor([line]) for line in tokens["calibration"]]
    held_out = [Sample(line["slice"], torch.tensor(line["tokens"]), line["answer"]) for line in tokens["held_out"]]

    @torch.inference_mode()
    def run_calibration(quantized: Any) -> None:
        for line in calibration:
            quantized(line, use_cache=False)

    found: dict[str, Any] = {}
    for name in configs:
        start = time.perf_counter()
        config = getattr(mtq, PEER_CONFIGS[name])
        quantized = mtq.quantize(copy.deepcopy(baseline), config, run_calibration).eval()
        seconds = time.perf_counter() - start
        sides = [TorchSide(one, one.model.layers) for one in (baseline, quantized)]
        result = evaluate(sides[0], sides[1], held_out, generate=False)
        left = [module for module, layer in quantized.named_modules() if _is_plain_product(layer)]
        found[name] = {
            "configuration": PEER_CONFIGS[name],
            "not quantized": left,
            "calibration s": seconds,
            **result.to_dict(),
        }
    return found


def _is_plain_product(layer: Any) -> bool:
    """Whether it is a linear layer whose weight stays as it is."""
    quantizer = getattr(layer, "weight_quantizer", None)
    return isinstance(layer, torch.nn.Linear) and (quantizer is None or not quantizer.is_enabled)


def main() -> None:
    """Write the evaluations as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", action="append", choices=list(PEER_CONFIGS))
    options = parser.parse_args()
    found = measure(options.model, json.loads(options.tokens.read_text()), options.config or list(PEER_CONFIGS))
    versions = {name: importlib.metadata.version(name) for name in ("nvidia-modelopt", "torch", "transformers")}
    options.out.write_text(json.dumps({"versions": versions, "systems": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()

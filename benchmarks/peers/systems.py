"""Every system that is compared: what runs it, in which environment, and of which form of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peers.environments import PROJECT

ENGINE, MIRROR = "ours", "ours_mirror"


@dataclass(frozen=True)
class System:
    """One line of the table.

    Attributes:
        name: What ``--systems`` calls it.
        title: What the table calls it.
        script: The file beside this one that builds and measures it.
        environment: A name in `environments.REQUIREMENTS`, or the project's own.
        variant: What the script builds.
        stand_in: Whether it is built of the stand-in, because the tool does not know EXAONE 4.
        default: Whether it is measured unless others are named.
        exported: Whether ``--exports`` times how it is made.
    """

    name: str
    title: str
    script: str
    environment: str
    variant: str
    stand_in: bool = False
    default: bool = True
    exported: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's."""
        return self.script in (ENGINE, MIRROR)

    def folder(self, work: Path) -> Path:
        """Where its model lies."""
        return work / f"1.2b-{self.variant}" if self.is_ours else work / "peers" / self.name


def _llama(variant: str, exported: bool = False) -> System:
    name = f"llamacpp-{variant.lower()}"
    return System(name, f"llama.cpp {variant}", "llamacpp", "llama-cpp", variant, exported=exported)


_GENAI = ("genai", "onnxruntime-genai")
_OPENVINO = ("openvino_peer", "openvino")

SYSTEMS = {
    system.name: system
    for system in (
        System("ours-int4", "exaone-export int4", ENGINE, PROJECT, "int4", exported=True),
        System("ours-int4-mirror", "exaone-export int4, as transformers is called", MIRROR, PROJECT, "int4"),
        System(
            "ours-int4-gptq",
            "exaone-export int4, calibrated by GPTQ with 16 times 512 tokens",
            ENGINE,
            PROJECT,
            "int4-gptq",
            default=False,
            exported=True,
        ),
        System("ours-int4-int8", "exaone-export int4, prompts in int8", ENGINE, PROJECT, "int4-prompts-int8"),
        System("ours-int8", "exaone-export int8", ENGINE, PROJECT, "int8"),
        System("ours-float32", "exaone-export float32", ENGINE, PROJECT, "float32", default=False),
        System("pytorch-bf16", "transformers bfloat16", "pytorch", PROJECT, "bf16"),
        System("pytorch-fp32", "transformers float32", "pytorch", PROJECT, "fp32", default=False),
        System("genai-int4-b32", "ONNX Runtime GenAI int4, blocks of 32 (stand-in)", *_GENAI, "int4-block-32", True),
        System(
            "genai-int4-b128",
            "ONNX Runtime GenAI int4, blocks of 128, last logits only (stand-in)",
            *_GENAI,
            "int4-block-128",
            stand_in=True,
            exported=True,
        ),
        System(
            "genai-int8",
            "ONNX Runtime GenAI int8, blocks of 128, last logits only (stand-in)",
            *_GENAI,
            "int8-block-128",
            stand_in=True,
        ),
        _llama("Q4_0", exported=True),
        _llama("Q4_K_M"),
        _llama("Q8_0"),
        System("openvino-int4", "OpenVINO GenAI int4, groups of 128", *_OPENVINO, "int4", exported=True),
        System("openvino-int8", "OpenVINO GenAI int8", *_OPENVINO, "int8"),
    )
}

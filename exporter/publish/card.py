"""The model card of a published artifact: what it is, what was measured, how to run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from exaone_export.artifact.manifest import Manifest
from exaone_export.errors import ConfigError
from exaone_export.files import strict_json
from exaone_export.model.config.head import read_head
from exaone_export.model.heads import HIDDEN_STATES, QUESTION_ANSWERING
from exaone_export.targets.target import get_target

__all__ = ["MARK", "CardFields", "model_card", "read_result"]

MARK = "<!-- written by exaone-export push -->"
"""In a card that the next push may replace."""

_TASKS = {QUESTION_ANSWERING: "question-answering", HIDDEN_STATES: "feature-extraction"}
_OTHER_TASKS = {"sequence-classification": "text-classification", "token-classification": "token-classification"}

_RESULT_KEYS = {"parity": ("baseline", "passed", "rows"), "bench": ("tests",)}
_MAX_RESULT_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class CardFields:
    """What the manifest does not say.

    Attributes:
        base_model: The checkpoint's id on the hub; None where it is not known.
        license: As the hub names it, such as ``other``.
        license_name: Its name, where ``license`` is ``other``.
        license_link: Where its text is.
        parity: What ``parity --json`` prints.
        bench: What ``bench --json`` prints.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    parity: Mapping[str, Any] | None = None
    bench: Mapping[str, Any] | None = None


def read_result(path: Path, command: Literal["parity", "bench"]) -> dict[str, Any]:
    """What a command has printed with ``--json``, for the card.

    Raises:
        ConfigError: The file is not JSON, or something else than the command's result.
    """
    content = strict_json.read_object(path, max_bytes=_MAX_RESULT_BYTES, error=ConfigError)
    if missing := [key for key in _RESULT_KEYS[command] if key not in content]:
        raise ConfigError(f"{path} has no {missing[0]!r}; give what exaone-export {command} printed with --json.")
    return content


def model_card(manifest: Manifest, repo: str, fields: CardFields) -> str:
    """The card as text, in Markdown behind YAML.

    Args:
        manifest: The artifact's.
        repo: Its name on the hub.
        fields: The rest; what is None is left out.
    """
    from huggingface_hub import ModelCardData

    head = read_head(manifest.model)
    task = "text-generation" if head.is_causal_lm else (_TASKS | _OTHER_TASKS)[head.kind]
    runtime = ("tensorrt",) if manifest.engine is not None else ("onnx", "onnxruntime")
    data = ModelCardData(
        base_model=fields.base_model,
        license=fields.license,
        license_name=fields.license_name,
        license_link=fields.license_link,
        library_name="exaone-export",
        pipeline_tag=task,
        tags=[*runtime, "exaone", manifest.precision],
    )
    made = f"[{fields.base_model}](https://huggingface.co/{fields.base_model})" if fields.base_model else "a checkpoint"
    limit = manifest.cache["max_length"]
    prompts = "" if manifest.prefill is None else f" and `{manifest.prefill['precision']}` for prompts"
    parts = [
        f"---\n{data.to_yaml().strip()}\n---\n\n{MARK}\n\n# {repo.partition('/')[2]}",
        f"Made of {made} by exaone-export {manifest.exaone_export_version}: target `{manifest.target}`, precision "
        f"`{manifest.precision}`{prompts}, at most {limit:,} tokens, prompt and answer together.",
        _run(manifest, repo, head.is_causal_lm),
        *(["## Parity", _parity(fields.parity)] if fields.parity else []),
        *(["## Speed", _bench(fields.bench)] if fields.bench else []),
        f"## Licence\n\n{_licence(fields)}",
    ]
    return "\n\n".join(parts) + "\n"


def _run(manifest: Manifest, repo: str, is_causal_lm: bool) -> str:
    if not is_causal_lm:
        return f"## Run\n\n    pip install 'exaone-export[cpu,export]'\n    exaone-export predict {repo} --text Hello"
    if manifest.engine is not None:
        return (
            f"## Run\n\nOn a GPU and a TensorRT version like those of the build:\n\n"
            f"    exaone-export generate {repo} -p Hello"
        )
    inputs = ", ".join(f"`{name}`" for name in manifest.inputs if not name.startswith("past_key_values"))
    parts = [
        "## Run",
        f"With exaone-export, every file is checked against its hash:\n\n    pip install 'exaone-export[cpu]'\n"
        f"    exaone-export generate {repo} -p Hello",
        f"The same in Python:\n\n```python\nfrom exaone_export import Runner\n\n"
        f'with Runner.open("{repo}") as runner:\n    print(runner.generate("Hello", max_new_tokens=32).read())\n```',
    ]
    if "genai_config.json" in manifest.files:
        parts.append(
            f"With onnxruntime-genai, from a local copy (`hf download {repo} --local-dir model`):\n\n```python\n"
            "import onnxruntime_genai as og\n\n"
            'model = og.Model("model")\ntokenizer = og.Tokenizer(model)\nparams = og.GeneratorParams(model)\n'
            'generator = og.Generator(model, params)\ngenerator.append_tokens(tokenizer.encode("Hello"))\n'
            "while not generator.is_done():\n    generator.generate_next_token()\n"
            "print(tokenizer.decode(generator.get_sequence(0)))\n```"
        )
    target = get_target(manifest.target)
    if target.kernels and target.device == "cpu":
        runner = Path(__file__).with_name("card_runner.py").read_text(encoding="utf-8").partition('"""\n\n')[2]
        parts.append(f"With onnxruntime, numpy and tokenizers alone, from a local copy:\n\n```python\n{runner}```")
    parts.append(
        f"With ONNX Runtime in any language, `model.onnx` takes {inputs} and the key-value caches of every layer, "
        "`past_key_values.N.key` and `.value`, which it gives back as `present.N.key` and `.value`."
    )
    return "\n\n".join(parts)


def _parity(found: Mapping[str, Any]) -> str:
    lines = [
        f"Compared with {found['baseline']} in float32: {'passed' if found['passed'] else 'FAILED'}.\n",
        "| side | prompt tokens | largest difference of logits, in standard deviations | mean KL, nats | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        logits, kl = ("-" if row.get(name) is None else f"{row[name]:.1e}" for name in ("logits", "kl"))
        verdict = "passed" if row["passed"] else "FAILED"
        lines.append(f"| {row['side']} | {row['prompt_tokens']} | {logits} | {kl} | {verdict} |")
    return "\n".join(lines)


def _bench(found: Mapping[str, Any]) -> str:
    lines = ["| test | tokens a second, median |", "| --- | --- |"]
    lines += [f"| {row['name']} | {row['tokens_per_second']['median']:,.1f} |" for row in found["tests"]]
    return "\n".join(lines)


def _licence(fields: CardFields) -> str:
    if fields.license is None:
        return "That of the model it was made of."
    name = fields.license_name or fields.license
    return f"[{name}]({fields.license_link})" if fields.license_link else name

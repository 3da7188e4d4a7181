"""An EXAONE 4 checkpoint as a GGUF file: what llama.cpp's converter writes, of a checkpoint whose tokenizer it refuses.

    python gguf_files.py MODEL.gguf tokenizer.json OUT.gguf

The converter knows tokenizers by their hash. Speed needs none, so the file says that it has no vocabulary, and tokens
go in and out as numbers. For a server, which takes texts, the script adds the vocabulary of a ``tokenizer.json``.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

import gguf
import numpy as np

ARCHITECTURE = gguf.MODEL_ARCH.EXAONE4
COPIED = (gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32)


def write_gguf(checkpoint: Path, out: Path) -> None:
    """Write the checkpoint's bfloat16 weights as they are; norms in float32, as llama.cpp wants them."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
    _write_architecture(writer, config)
    names = gguf.get_tensor_name_map(ARCHITECTURE, config["num_hidden_layers"])
    path = checkpoint / "model.safetensors"
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        shape = (8 + length + start, (stop - start) // 2, entry["shape"])
        bits = np.memmap(path, np.uint16, "r", offset=shape[0], shape=(shape[1],)).reshape(shape[2])
        target = names.get_name(name, try_suffixes=(".weight",))
        if bits.ndim == 1:
            writer.add_tensor(target, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    _finish(writer)


def _write_architecture(writer: gguf.GGUFWriter, config: dict) -> None:
    rope = config["rope_parameters"]
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tensor(f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight", _frequency_factors(config))


def _frequency_factors(config: dict) -> np.ndarray:
    """``[head_dim / 2]``: what llama 3's scaling divides each rotary frequency by (`transformers`' ``llama3`` rope)."""
    rope, dim = config["rope_parameters"], config["head_dim"]
    factors = []
    for index in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / dim)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / (kept + (1 - kept) / rope["factor"]))
    return np.array(factors, dtype=np.float32)


def add_vocabulary(source: Path, tokenizer: Path, out: Path) -> None:
    """Copy the tensors and the architecture of a file without a vocabulary, and write one beside them.

    Byte-level BPE alone; ids that the tokenizer has not are filled with tokens that no text contains.
    """
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "tokenizer.")) or name == "general.architecture" or name.endswith(".vocab_size"):
            continue
        if field.types[0] not in COPIED:
            raise TypeError(f"{name} is a {field.types[0].name}, which is not copied")
        writer.add_key_value(name, field.contents(), field.types[0])
    size = int(reader.fields[f"{architecture}.vocab_size"].contents())
    found = json.loads(tokenizer.read_text())
    tokens = [f"<unused {index}>" for index in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for text, index in found["model"]["vocab"].items():
        tokens[index], kinds[index] = text, gguf.TokenType.NORMAL
    for added in found["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], gguf.TokenType.CONTROL
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = found["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    writer.add_bos_token_id(1)
    writer.add_add_bos_token(False)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    add_vocabulary(*map(Path, sys.argv[1:]))

"""A GGUF file without a vocabulary as one with the vocabulary of a ``tokenizer.json``, for a server that takes texts.

    python gguf_vocabulary.py MODEL.gguf tokenizer.json OUT.gguf

Byte-level BPE alone; ids that the tokenizer has not are filled with tokens that no text contains.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf

COPIED = (gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32)


def add_vocabulary(source: Path, tokenizer: Path, out: Path) -> None:
    """Copy the tensors and the architecture, and write a vocabulary beside them."""
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    add_vocabulary(*map(Path, sys.argv[1:]))

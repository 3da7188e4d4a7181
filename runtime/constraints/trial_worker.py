"""The process that grammars are tried in, started by `exaone_export.runtime.constraints.trial`.

One request is a line of JSON on stdin, a grammar; one answer a line of JSON on stdout, with what is wrong with it or
null. It says that it is ready by a line before.
The vocabulary is that of single bytes: what is wrong with a grammar does not depend on it, and it is there at once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

_STEPS = 4
"""Bytes of an answer that are tried: some grammars fail where they are first used."""


def main() -> None:
    """Answer requests until stdin ends."""
    milliseconds, memory = int(sys.argv[1]), int(sys.argv[2])
    sys.path += sys.argv[3:]
    answers = os.fdopen(os.dup(1), "wb")
    # What a failing parser prints must not mix with the answers.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    import llguidance

    class Bytes:
        bos_token_id, eos_token_id, special_token_ids = None, 256, (256,)
        tokens = (*(bytes([value]) for value in range(256)), b"[end]")

        def __call__(self, text: str) -> list[int]:
            return list(text.encode())

    vocabulary = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()), n_vocab=257, eos_token=256)
    limits = llguidance.LLParserLimits(max_lexer_states=20_000, verbose_errors=False)

    def tried(grammar: str) -> str | None:
        matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
        for _ in range(_STEPS):
            if matcher.is_error() or matcher.is_stopped():
                break
            mask = int.from_bytes(matcher.compute_bitmask()[:32], "little")
            if not mask:
                break
            matcher.consume_token((mask & -mask).bit_length() - 1)
        return str(matcher.get_error()) if matcher.is_error() else None

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # of the environment (ulimit)
    resource.setrlimit(resource.RLIMIT_AS, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(null, 2)
    answers.write(b'{"ready": true}\n')
    answers.flush()
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, milliseconds / 1000)  # its signal ends the process
        answer = tried(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps({"error": answer}).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()

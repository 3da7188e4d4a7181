"""``exaone-export predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.location import check_locatable
from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError
from exaone_export.files.durable import replacing
from exaone_export.model.heads import POOLINGS
from exaone_export.runtime.predict.options import AGGREGATIONS, FORMS, MOST_ANSWER_TOKENS, Options, check_head

from . import options as shared
from .numbers import Count
from .output import say
from .paths import ARTIFACT, WRITTEN_FILE, PathArgument
from .progress import show_progress

if TYPE_CHECKING:
    from exaone_export.runtime.predict.lines import Line

_STDIN = Path("-")


@click.command("predict")
@click.argument("artifact", type=ARTIFACT)
@shared.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; may be repeated.")
@shared.option(
    "--input",
    "input_file",
    type=PathArgument(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="File of texts, one a line, or of JSON objects, one a line; - reads stdin.",
)
@shared.option(
    "--input-format",
    type=click.Choice(FORMS),
    help="How FILE is read (default: jsonl for .jsonl, .json and a stdin that begins with a brace; else text).",
)
@shared.option(
    "--output", "output_file", type=WRITTEN_FILE, metavar="FILE", help="Write the results to FILE (default: stdout)."
)
@shared.option("--batch", type=Count(min=1), help="Maximum texts per batch (default: 8, or what the artifact takes).")
@shared.option("--top-k", type=Count(min=1), help="Classes, or answers, with their scores (default: all, or the best).")
@shared.option(
    "--aggregation",
    type=click.Choice(AGGREGATIONS),
    help="Token classification: how tokens are joined to entities, as in transformers (default: simple).",
)
@shared.option(
    "--max-answer-tokens",
    type=Count(1, MOST_ANSWER_TOKENS),
    help="Question answering: longest answer in tokens (default: 32).",
)
@shared.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    help="Hidden states: the vector of the last token, or the mean of all (default: last).",
)
@shared.option("--normalize", is_flag=True, help="Hidden states: scale every vector to unit length.")
@shared.threads
@shared.trusted_key
def command(
    artifact: str,
    texts: tuple[str, ...],
    input_file: Path | None,
    input_format: str | None,
    output_file: Path | None,
    batch: int | None,
    threads: int | None,
    trusted_key: Path | None,
    **options: Any,
) -> None:
    """Classify, tag, answer or embed texts with ARTIFACT, one JSON object a line.

    A JSON line has "text" and, for a pair, "text_pair"; or "messages", a chat, which may have "tools"; or, for question
    answering, "question" and "context". Its "id" is given back; without one, it is the number of the line. All lines
    are checked before the first is run, and results come in the order of the lines.

    Example: exaone-export predict out --text "I liked it." --text "I did not."
    """
    if (input_file is None) == (not texts):
        raise click.UsageError("pass texts with --text, or a file of them with --input")
    if input_file is None and input_format is not None:
        raise click.UsageError("--input-format says how --input is read; leave it out")
    if output_file is not None and output_file.exists() and not output_file.is_file():
        raise click.BadParameter(f"{output_file} is not a regular file; leave it out for stdout", param_hint="--output")
    check_locatable(artifact)
    opened, wanted = Artifact.open(artifact, trusted_key=trusted_key), Options(**options)
    check_head(opened, wanted)

    import transformers

    from exaone_export.runtime.predict.run import predict

    transformers.utils.logging.disable_progress_bar()  # ours is shown
    given = _given(texts, input_file, input_format, opened.spec.head.kind)
    with given as lines, show_progress({"encode": "lines"}, unit="texts") as report:
        results = predict(opened, lines, wanted, batch=batch, threads=threads, progress=report)
        with _written(output_file) as write:
            for result in results:
                write(json.dumps(result, ensure_ascii=False, allow_nan=False))


@contextmanager
def _given(texts: tuple[str, ...], path: Path | None, form: str | None, kind: str) -> Iterator[Iterator[Line]]:
    from exaone_export.runtime.predict.lines import form_of, given_texts, read_lines

    if path is None:
        yield given_texts(texts, kind)
    elif path != _STDIN:
        form = form or form_of(path)
        with path.open("rb") as file:
            yield read_lines(file, str(path), kind, form)
    elif sys.stdin is None:
        raise PromptError("stdin is closed; pass a file with --input FILE.")
    else:
        yield read_lines(sys.stdin.buffer, "stdin", kind, form)


@contextmanager
def _written(path: Path | None) -> Iterator[Callable[[str], None]]:
    """What writes a line to stdout, or to a file that is there whole or not at all."""
    if path is None:
        yield say
    else:
        with replacing(path.resolve()) as file:

            def write(line: str) -> None:
                file.write(f"{line}\n".encode())

            yield write

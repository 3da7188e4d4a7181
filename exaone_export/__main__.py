"""``python -m exaone_export`` and the ``exaone-export`` command."""

import contextlib
import os
import sys

SPIN_COUNT = "10000"


def _open_standard_streams() -> None:
    """Put the null device where a standard stream was closed: a file would get its number, and what is printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the stream's, unless a file has it
            os.set_inheritable(number, number <= 2)  # programs that are started then have the stream too
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def main() -> None:
    """Run the command line."""
    # PyTorch's threads wait for each other by spinning, for about a millisecond unless told otherwise before it is
    # loaded. Beside other work a thread that spins keeps the one that it waits for from running: a thirtieth of that is
    # as fast on a machine of one's own, and several times as fast on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

    # Where a library imports ONNX Runtime before this package does; see `import_onnxruntime`.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    _open_standard_streams()
    # What a terminal's encoding lacks is shown escaped: an answer in Korean, a name of a file that is not UTF-8.
    with contextlib.suppress(AttributeError):  # of a stream that a program has put in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from exaone_export.cli.main import cli

        cli()
    except KeyboardInterrupt:  # while modules are loaded
        sys.exit(130)


if __name__ == "__main__":
    main()

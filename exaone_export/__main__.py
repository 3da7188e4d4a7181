"""``python -m exaone_export`` and the ``exaone-export`` command."""

import contextlib
import os
import sys

SPIN_COUNT = "10000"


def main() -> None:
    """Run the command line."""
    # PyTorch's threads wait for each other by spinning, for about a millisecond unless told otherwise before it is
    # loaded. Beside other work a thread that spins keeps the one that it waits for from running: a thirtieth of that is
    # as fast on a machine of one's own, and several times as fast on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

    # What a terminal's encoding lacks is shown escaped: an answer in Korean, a name of a file that is not UTF-8.
    with contextlib.suppress(AttributeError):  # A closed stdout is None.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from exaone_export.cli.main import cli

        cli()
    except KeyboardInterrupt:  # while modules are loaded
        sys.exit(130)


if __name__ == "__main__":
    main()

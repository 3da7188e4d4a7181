"""``python -m exaone_export`` and the ``exaone-export`` command."""

import os

SPIN_COUNT = "10000"


def main() -> None:
    """Run the command line."""
    # PyTorch's threads wait for each other by spinning, for about a millisecond unless told otherwise before it is
    # loaded. Beside other work a thread that spins keeps the one that it waits for from running: a thirtieth of that is
    # as fast on a machine of one's own, and several times as fast on a busy one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

    from exaone_export.exporter.cli.main import cli

    cli()


if __name__ == "__main__":
    main()

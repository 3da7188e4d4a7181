"""``python -m exaone_export`` and the ``exaone-export`` command."""


def main() -> None:
    """Run the command line."""
    from exaone_export.exporter.cli.main import cli

    cli()


if __name__ == "__main__":
    main()

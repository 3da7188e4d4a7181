"""The command-line reference, made from the commands themselves: ``make docs`` writes it, a test compares it."""

from __future__ import annotations

import click

from .main import COMMANDS, cli

_HEAD = "# Command line\n\nMade by `make docs` from the commands' own help.\n"


def reference() -> str:
    """The page in Markdown."""
    # The command line's own settings: they name the help option, and click keeps the first name that it is given.
    root = click.Context(cli, info_name="exaone-export", terminal_width=100, **cli.context_settings)
    sections = [_HEAD, _section("exaone-export", cli.get_help(root))]
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, terminal_width=100, max_content_width=100)
        sections.append(_section(f"exaone-export {name}", command.get_help(context)))
    return "\n".join(sections)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)

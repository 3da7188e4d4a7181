"""Paths on the command line: what cannot name a file is an invalid argument, for every command alike."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click

from exaone_export.errors import ConfigError
from exaone_export.files.images import check_image_format

__all__ = ["ARTIFACT", "IMAGE", "MODEL", "PATH", "WRITTEN_FILE", "PathArgument"]


class PathArgument(click.Path):
    """A path, with ``~`` for a home.

    Args:
        written: Whether a file is written there, so that it is refused before the work that is to fill it.
        image: Whether that file is a picture, in one of `exaone_export.files.images.IMAGE_FORMATS`.
        options: Of `click.Path`.
    """

    def __init__(self, *, written: bool = False, image: bool = False, **options: Any) -> None:
        super().__init__(path_type=Path, readable=not written, **options)
        self._written, self._image = written, image

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check it, and expand it."""
        try:
            path = _expand(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        found = super().convert(str(path), param, ctx)  # a str, because click knows - by its text
        if self._written and (why := _why_not_written(path)) is not None:
            self.fail(f"{path} {why}.", param, ctx)
        if self._image:
            try:
                check_image_format(path)
            except ConfigError as error:
                self.fail(str(error), param, ctx)
        return found


class _Model(click.ParamType):
    def __init__(self, name: str = "model") -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Leave it as it is, since it may be a name too."""
        try:
            _expand(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


def _expand(value: str | Path) -> Path:
    """The path; raises ValueError with a sentence where it cannot name a file."""
    shown = repr(str(value)) if len(str(value)) < 80 else f"{str(value)[:60]!r} and so on"
    try:
        path = Path(value).expanduser()
        path.resolve()
        path.lstat()
    except RuntimeError as error:  # of expanduser and resolve
        what = "leads to itself" if "loop" in str(error) else "names the home of a user who does not exist"
        raise ValueError(f"{shown} {what}.") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ValueError(f"{shown} is not a path ({error.strerror}).") from error
    except ValueError as error:
        raise ValueError(f"{shown} is not a path ({error}).") from error
    return path


def _why_not_written(path: Path) -> str | None:
    if path.exists():
        return None if os.access(path, os.W_OK) else "cannot be written; check its permissions"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"lies in {path.parent}, which is not a folder; make it first"
    return (
        None
        if os.access(folder, os.W_OK | os.X_OK)
        else f"cannot be made, because {folder} is read-only; choose another folder"
    )


PATH = PathArgument()
WRITTEN_FILE = PathArgument(dir_okay=False, written=True)
IMAGE = PathArgument(dir_okay=False, written=True, image=True)
MODEL = _Model()
"""A folder, a hub id or a published size."""
ARTIFACT = _Model("artifact")
"""A folder, or a hub id with its revision; `exaone_export.artifact.location.check_locatable` says which."""

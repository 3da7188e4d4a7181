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

_WEIGHTS = (".safetensors", ".onnx", ".data", ".engine")


class PathArgument(click.Path):
    """A path, with ``~`` for a home.

    Args:
        written: Whether a file is written there, so that it is refused before the work that is to fill it.
        image: Whether that file is a picture, in one of `exaone_export.files.images.IMAGE_FORMATS`.
        options: Of `click.Path`.

    Attributes:
        is_written: Whether a file is written there.
    """

    def __init__(self, *, written: bool = False, image: bool = False, **options: Any) -> None:
        super().__init__(path_type=Path, readable=not written, **options)
        self.is_written, self._image = written, image

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check it, and expand it."""
        try:
            path = _expand(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        found = super().convert(str(path), param, ctx)  # a str, because click knows - by its text
        if self.is_written and (why := _why_not_written(path)) is not None:
            self.fail(f"{path} {why}.", param, ctx)
        _refuse_loss(path, param, ctx, is_written=self.is_written)
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
            _refuse_loss(_expand(value), param, ctx)
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


def _refuse_loss(
    path: Path, param: click.Parameter | None, ctx: click.Context | None, *, is_written: bool = False
) -> None:
    """Refuse to write a file that the same command reads, or one of a folder that it reads.

    Whichever of the two parameters click converts later finds the other one.
    """
    if ctx is None or param is None or not path.exists():
        return
    for other in ctx.command.params:
        writes = isinstance(other.type, PathArgument) and other.type.is_written
        if writes == is_written or not isinstance(other.type, PathArgument | _Model):
            continue
        given = ctx.params.get(str(other.name))
        for each in given if isinstance(given, tuple) else () if given is None else (given,):
            found = Path(each).expanduser()
            read, written = (found, path) if is_written else (path, found)
            if not (found.exists() and written.is_file()):  # a terminal is read and written, and loses nothing
                continue
            if read.samefile(written) or (read.samefile(written.parent) and _is_read(written, read)):
                writer = param if is_written else other
                raise click.BadParameter(
                    f"{written} is read by this command too, and would be lost; choose another file.", ctx, writer
                )


def _is_read(path: Path, folder: Path) -> bool:
    """Whether a file of a checkpoint or an artifact is part of it; others, such as a report of before, may be there."""
    from exaone_export.artifact.manifest import MANIFEST_NAME
    from exaone_export.artifact.sidecars import names_read

    return path.name in names_read(folder) or path.name.startswith(MANIFEST_NAME) or path.suffix in _WEIGHTS


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

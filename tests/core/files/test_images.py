"""One list of formats for every picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from exaone_export.errors import ConfigError
from exaone_export.files.images import IMAGE_FORMATS, check_image_format, new_figure


@pytest.mark.parametrize("suffix", [*IMAGE_FORMATS, ".PNG"])
def test_a_picture_of_every_format_is_drawn(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"picture{suffix}"
    new_figure(path, 1, 1).savefig(path)
    assert path.stat().st_size > 100


@pytest.mark.parametrize("name", ["picture.gif", "picture", "picture.txt"])
def test_another_format_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: unsupported image format; use \.png, \.svg or \.pdf\.$"):
        check_image_format(Path(name))

"""What the tests of artifacts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.artifacts import write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifact."""
    write(tmp_path / "out")
    return tmp_path / "out"

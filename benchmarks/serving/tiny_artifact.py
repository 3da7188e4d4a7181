"""The artifact of the tiny checkpoint that the server is tried with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "examples" / "exaone4-tiny"


def ensure_exported(artifact: Path) -> int:
    """Export the tiny checkpoint unless the folder is there, and give the token that ends an answer."""
    if not artifact.exists():
        command = [sys.executable, "-m", "exaone_export", "export", str(TINY), str(artifact)]
        subprocess.run([*command, "--max-length", "512"], check=True, stdout=subprocess.DEVNULL)
    stop: int = json.loads((artifact / "generation_config.json").read_text())["eos_token_id"]
    return stop

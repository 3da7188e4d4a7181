"""Let Schemathesis send the server what its description allows, and what it does not, for some minutes.

    pip install schemathesis
    python benchmarks/serving/fuzz_server.py --seconds 300

The server runs on the tiny checkpoint, with a key and short answers. The exit status is Schemathesis' own: 0 where no
request was answered with a status of 500 or in a form that `/openapi.json` does not tell.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEY = "a-key-for-schemathesis"
TINY = Path(__file__).parents[2] / "examples" / "exaone4-tiny"
# Not whether what the description allows is accepted: fields that are right alone may exclude each other.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)


def main() -> int:
    """Give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        product = [sys.executable, "-m", "exaone_export"]
        subprocess.run([*product, "export", str(TINY), str(artifact), "--max-length", "128"], check=True)
        command = [*product, "serve", str(artifact), "--port", "0", "--model-name", "tiny", "--request-seconds", "10"]
        log = Path(folder) / "log"
        with log.open("w+") as file, subprocess.Popen(
            command, stderr=file, env={**os.environ, "EXAONE_EXPORT_API_KEY": KEY}
        ) as server:  # fmt: skip
            try:
                while (found := re.search(r"at (http://\S+)/v1", log.read_text())) is None:
                    if server.poll() is not None:
                        sys.exit(log.read_text())
                    time.sleep(0.02)
                options = [
                    "--phases",
                    "examples,coverage,fuzzing",
                    "--max-time",
                    str(seconds),
                    "--checks",
                    ",".join(CHECKS),
                ]
                header = f"Authorization: Bearer {KEY}"
                fuzz = [sys.executable, "-m", "schemathesis.cli", "run", f"{found[1]}/openapi.json", "--header", header]
                status = subprocess.run([*fuzz, *options, "--continue-on-failure"], check=False, cwd=folder).returncode
            finally:
                server.terminate()
        errors = [line for line in log.read_text().splitlines() if " error " in line]
        print(*errors, sep="\n")
        return status or bool(errors)


if __name__ == "__main__":
    sys.exit(main())

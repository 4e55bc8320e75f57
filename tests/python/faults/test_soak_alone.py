"""Some seconds of the soak of lone failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[3] / "tools" / "soak_alone.py"
SECONDS = 10.0


def test_programs_that_go_on() -> None:
    command = [sys.executable, str(TOOL), "--minutes", str(SECONDS / 60), "--pause", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong values" in done.stdout
    assert "faults: " in done.stdout and "layers" in done.stdout, done.stdout

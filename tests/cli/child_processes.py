"""Commands as a user would run them, in a process of their own: no GPU, one thread."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def environment() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run_command(folder: Path, *words: object, limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder`` to its end, ``limit`` seconds at most; its output is collected."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def workers_of(launcher: int) -> list[int]:
    """Return the processes that a torchrun started, those that train."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if "monai.bundle" in Path(f"/proc/{child}/cmdline").read_text()]

"""Writes the random checkpoint in a process of its own, beside the checks of correctness."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.measuring import seconds_of
from benchmarks.gpu.places import ROOT
from benchmarks.gpu.report import Part
from trainer.loading import checkpoint_digest

LONGEST_SECONDS = 240.0


def start_writer(checkpoint: Path, *, scale: str, device: str) -> subprocess.Popen[str]:
    """Moondream 3 in bfloat16, in the Hugging Face layout."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.random_checkpoint", str(checkpoint)),
            *("--family", "moondream3", "--layout", "hf", "--scale", scale, "--device", device),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(writer: subprocess.Popen[str], checkpoint: Path, part: Part) -> None:
    output, complaint = writer.communicate(timeout=LONGEST_SECONDS)
    if writer.returncode:
        raise RuntimeError(f"the checkpoint was not written: {complaint[-3000:]}")
    part |= json.loads(output)
    part["digest_seconds"] = seconds_of(lambda: checkpoint_digest(checkpoint))

"""Which machine this is, and what it can do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.gpu.measuring import GIGA, median_seconds


def machine_facts(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "free_disk_gb": shutil.disk_usage(tempfile.gettempdir()).free / GIGA,
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_memory_gb"] = torch.cuda.get_device_properties(0).total_memory / GIGA
        facts["cuda"] = torch.version.cuda
    if device == "cuda" and shutil.which("nvidia-smi"):
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
        facts["driver"] = found.stdout.strip()
    return facts


def measure_hardware(part: dict[str, Any], device: str) -> None:
    """Bytes moved per second by a copy (read and written), operations of a bfloat16 product."""
    is_gpu = device == "cuda"
    source = torch.empty(4 << 30 if is_gpu else 1 << 24, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    side = 8192 if is_gpu else 256
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    copying = median_seconds(lambda: target.copy_(source), repeats=9)
    multiplying = median_seconds(lambda: torch.mm(a, b), repeats=9)
    part["bandwidth_gb_per_second"] = 2 * source.nbytes / copying / GIGA
    part["bfloat16_tflops"] = 2 * side**3 / multiplying / 1e12

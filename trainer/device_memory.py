"""Whether a model fits the memory that is free on a device, and what to do where it does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.memory import ParameterCount, Storage, serving_bytes, weight_bytes
from trainer.model.config import Family, MoondreamConfig

MEMINFO = Path("/proc/meminfo")
FP8_MODEL = "moondream/moondream3.1-9B-A2B"


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes of a device that are free, of all it has."""

    free: int
    total: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Ask a device, or the operating system for the CPU; None where it does not say."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(free=free, total=total)
    try:
        return _from_meminfo(MEMINFO.read_text())
    except OSError:
        return None


def storage_on(device: torch.device, dtype: torch.dtype, *, has_fp8: bool) -> Storage:
    """How a checkpoint's weights are held there; `has_fp8` is of its files."""
    return Storage(dtype=dtype, has_fp8_experts=has_fp8 and keeps_fp8(device))


def keeps_fp8(device: torch.device) -> bool:
    """Whether experts that are stored in fp8 stay so: where the device converts fp8 by itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def why_it_does_not_fit(
    config: MoondreamConfig, count: ParameterCount, storage: Storage, device: torch.device
) -> str | None:
    """Say what is needed, what is free and what to do; None when serving fits or nobody knows."""
    memory = device_memory(device)
    if memory is None:
        return None
    needed = serving_bytes(config, count, storage)
    if needed <= memory.free:
        return None
    advice = _advice(config, count, storage, device, memory)
    return (
        f"needs {gigabytes(needed)} in {storage} ({gigabytes(weight_bytes(count, storage))} of it"
        f" weights), but {device} has {gigabytes(memory.free)} of {gigabytes(memory.total)} free:"
        f" {', or '.join(advice)}"
    )


def _advice(
    config: MoondreamConfig,
    count: ParameterCount,
    storage: Storage,
    device: torch.device,
    memory: DeviceMemory,
) -> list[str]:
    """What would help, the least effort first; never empty."""
    found = []
    if serving_bytes(config, count, storage) <= memory.total:
        found.append("stop what else runs there")
    half = Storage(dtype=torch.bfloat16, has_fp8_experts=storage.has_fp8_experts)
    if storage.dtype.itemsize > 2 and serving_bytes(config, count, half) <= memory.free:
        found.append(f"--dtype bfloat16 ({gigabytes(serving_bytes(config, count, half))})")
    fp8 = Storage(dtype=torch.bfloat16, has_fp8_experts=True)
    could_be_fp8 = config.family is Family.MOONDREAM3 and keeps_fp8(device)
    if could_be_fp8 and not storage.has_fp8_experts:
        needed = serving_bytes(config, count, fp8)
        if needed <= memory.free:
            found.append(f"take fp8 weights such as {FP8_MODEL} ({gigabytes(needed)})")
    return found or [
        "choose another device" if device.type == "cuda" else "use a machine with more"
    ]


def gigabytes(num_bytes: int) -> str:
    """Such as `18.5 GB`; below a tenth of one in MB."""
    if num_bytes < 100_000_000:
        return f"{num_bytes / 1e6:.1f} MB"
    return f"{num_bytes / 1e9:.1f} GB"


def _from_meminfo(text: str) -> DeviceMemory | None:
    """Read lines such as `MemAvailable:   1234 kB`."""
    lines = (line.split() for line in text.splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    if not {"MemAvailable", "MemTotal"} <= kilobytes.keys():
        return None
    return DeviceMemory(free=1024 * kilobytes["MemAvailable"], total=1024 * kilobytes["MemTotal"])

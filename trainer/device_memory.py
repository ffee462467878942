"""Whether a model fits the memory that is free on a device, and what to do where it does not."""

from __future__ import annotations

import resource
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.memory import ParameterCount, Storage, serving_bytes, weight_bytes
from trainer.model.config import Family
from trainer.model.published_config import MoondreamConfig

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
"""What a device raises when its memory is exhausted, and what the host raises."""

MEMINFO = Path("/proc/meminfo")
FP8_MODEL = "moondream/moondream3.1-9B-A2B"


def forget_frames(error: BaseException) -> None:
    """Give up what the frames of an error hold, such as tensors; where it was can still be told."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__


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


class PeakMemory:
    """The most memory that was taken since this was made.

    Of a GPU; on a CPU it is the most that the process was ever resident with.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def num_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def storage_on(device: torch.device, dtype: torch.dtype, *, has_fp8: bool) -> Storage:
    """How a checkpoint's weights are held there; `has_fp8` is of its files."""
    return Storage(dtype=dtype, has_fp8_experts=has_fp8 and keeps_fp8(device))


def keeps_fp8(device: torch.device) -> bool:
    """Whether experts that are stored in fp8 stay so: where the device converts fp8 by itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


@dataclass(frozen=True, kw_only=True)
class Shortage:
    """A model that does not fit a device; reads as the end of a sentence about the model.

    Attributes:
        needed, weights: Bytes to serve, and the weights among them.
        advice: What would help, the least effort first.
    """

    device: torch.device
    memory: DeviceMemory
    storage: Storage
    needed: int
    weights: int
    advice: Sequence[str]

    @property
    def short(self) -> str:
        """What is free and what to do."""
        free, total = readable_bytes(self.memory.free), readable_bytes(self.memory.total)
        return f"{self.device} has {free} of {total} free: {', or '.join(self.advice)}"

    def __str__(self) -> str:
        needed, weights = readable_bytes(self.needed), readable_bytes(self.weights)
        return f"needs {needed} in {self.storage} ({weights} of it weights), but {self.short}"


def find_shortage(
    config: MoondreamConfig, count: ParameterCount, storage: Storage, device: torch.device
) -> Shortage | None:
    """Compare what serving needs with what is free; None when it fits or nobody knows."""
    memory = device_memory(device)
    needed = serving_bytes(config, count, storage)
    if memory is None or needed <= memory.free:
        return None
    return Shortage(
        device=device,
        memory=memory,
        storage=storage,
        needed=needed,
        weights=weight_bytes(count, storage),
        advice=_advice(config, count, storage, device, memory),
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
        found.append(f"--dtype bfloat16 ({readable_bytes(serving_bytes(config, count, half))})")
    fp8 = Storage(dtype=torch.bfloat16, has_fp8_experts=True)
    could_be_fp8 = config.family is Family.MOONDREAM3 and keeps_fp8(device)
    if could_be_fp8 and not storage.has_fp8_experts:
        needed = serving_bytes(config, count, fp8)
        if needed <= memory.free:
            found.append(f"take fp8 weights such as {FP8_MODEL} ({readable_bytes(needed)})")
    return found or [
        "choose another device" if device.type == "cuda" else "use a machine with more"
    ]


def readable_bytes(num_bytes: int) -> str:
    """Such as `18.5 GB`, `629 MB` or `5.6 MB`."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.{0 if num_bytes >= 1e7 else 1}f} MB"


def _from_meminfo(text: str) -> DeviceMemory | None:
    """Read lines such as `MemAvailable:   1234 kB`."""
    lines = (line.split() for line in text.splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    if not {"MemAvailable", "MemTotal"} <= kilobytes.keys():
        return None
    return DeviceMemory(free=1024 * kilobytes["MemAvailable"], total=1024 * kilobytes["MemTotal"])

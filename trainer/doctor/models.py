"""Whether the model is here and whole, or could be pulled, and whether the memory takes it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from contract.findings import Finding, fault, ok
from trainer.catalog import inspection
from trainer.catalog.hub import Hub, HubError, sha256_of
from trainer.catalog.known import KNOWN_MODELS, known_model
from trainer.catalog.pull import PullError, require_pullable
from trainer.catalog.store import ModelStore, find_model, is_repository
from trainer.device_memory import readable_bytes
from trainer.doctor.facts import Facts, Gpu
from trainer.doctor.gpus import chosen_gpu
from trainer.loading import DTYPES, LoadError
from trainer.memory import ParameterCount, Storage, count_parameters, serving_bytes
from trainer.model.checkpoint import inspect_checkpoint
from trainer.model.published_config import MoondreamConfig

QUICK_BYTES = 256 << 20
"""Files of a model that together are larger are compared with their digests only when asked to."""

FP8_CAPABILITY = (8, 9)
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Size:
    """What decides how much memory a model takes."""

    config: MoondreamConfig
    count: ParameterCount
    has_fp8: bool

    def needed(self, storage: Storage) -> int:
        """Bytes to serve it, held in that way."""
        return serving_bytes(self.config, self.count, storage)


def check_model(model: str, models_dir: Path, *, hub: Hub, is_deep: bool) -> Finding:
    """Whether a model's files are here, complete and as they came.

    Args:
        hub: Asked whether the model could be pulled, where it is not here.
        is_deep: Compare digests, however large the files are.
    """
    try:
        files = find_model(model, models_dir)
        inspection.check(files.directory)
    except LoadError as error:
        return _absent(model, models_dir, str(error), hub)
    store = ModelStore(models_dir)
    record = store.record(model) if is_repository(model) and not Path(model).is_dir() else None
    if record is None:
        return ok("model", f"{files.directory} is a model that can be loaded.")
    num_bytes = sum(file.size for file in record.files)
    if num_bytes > QUICK_BYTES and not is_deep:
        return ok("model", f"{model} is here; `moontune doctor --deep` compares its digests.")
    damaged = [f.name for f in record.files if sha256_of(files.directory / f.name) != f.sha256]
    if damaged:
        return fault(
            "model",
            f"{', '.join(damaged)} of {model} is not what was pulled: its SHA-256 differs.",
            f"rm {files.directory / damaged[0]} && moontune model pull {model}",
        )
    return ok("model", f"{model} is here, and is what was pulled.")


def size_of(model: str, models_dir: Path) -> Size | None:
    """The size of a model that is here or known; None of any other."""
    try:
        checkpoint = inspect_checkpoint(find_model(model, models_dir).directory)
        config, has_fp8 = checkpoint.config, checkpoint.has_fp8
    except (LoadError, ValueError):
        known = known_model(model)
        if known is None:
            return None
        config, has_fp8 = known.config, known.has_fp8
    return Size(config=config, count=count_parameters(config), has_fp8=has_fp8)


def check_memory(
    facts: Facts,
    size: Size,
    *,
    device: str,
    dtype: str,
    ours: frozenset[int],
    host: Mapping[str, int | None],
) -> Finding:
    """Whether the memory of the device takes the model.

    Args:
        ours: Processes of a server that runs with it already.
        host: `available` and `total` bytes of this machine; None where unknown.
    """
    gpu = chosen_gpu(facts, device) if facts.torch.num_devices else None
    is_on_gpu = gpu is not None or (facts.torch.num_devices > 0 and device != "cpu")
    default = torch.bfloat16 if is_on_gpu else torch.float32
    storage = Storage(
        dtype=DTYPES.get(dtype, default),
        has_fp8_experts=size.has_fp8 and gpu is not None and gpu.capability >= FP8_CAPABILITY,
    )
    needed = size.needed(storage)
    if gpu is not None:
        return _on_gpu(gpu, size, storage, needed, ours)
    if is_on_gpu:
        return ok("memory", f"It needs {readable_bytes(needed)} in {storage}.")
    return _on_host(host, size, storage, needed, is_served=bool(ours))


def host_memory(
    proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> dict[str, int]:
    """Bytes of this machine, `available` and `total`, or those of the container where fewer."""
    found: dict[str, int] = {}
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("MemAvailable", "MemTotal"):
                found[name.removeprefix("Mem").lower()] = int(value.split()[0]) * _KIB
    except (OSError, ValueError):
        return {}
    for limit in _LIMITS:
        try:
            most = int((groups / limit).read_text())
        except (OSError, ValueError):  # "max": none
            continue
        found = {name: min(value, most) for name, value in found.items()}
    return found


def _absent(model: str, models_dir: Path, reason: str, hub: Hub) -> Finding:
    """Why it is not here, and whether it could be."""
    store = ModelStore(models_dir)
    if Path(model).is_dir() or not is_repository(model):
        close = difflib.get_close_matches(model, ["tiny"], n=1, cutoff=0.5)
        mend = "moontune model list (names them); moontune serve --model NAME"
        return fault("model", reason, "moontune serve --model tiny" if close else mend)
    pull = f"moontune model pull {model}"
    try:
        if store.record(model) is None and store.plan(model) is None:
            require_pullable(model, hub=hub)
    except (HubError, PullError) as error:
        names = [known.repository for known in KNOWN_MODELS]
        close = difflib.get_close_matches(model, names, n=1, cutoff=0.8)
        is_misspelt = bool(close) and close[0] != model
        return fault(
            "model",
            f"{model} is not on this machine, and cannot be pulled: {str(error).rstrip('.')}.",
            f"moontune model pull {close[0]}" if is_misspelt else f"do so, then: {pull}",
        )
    except LoadError as error:  # its record cannot be read
        reason = str(error)
    return fault("model", reason, pull)


def _on_gpu(gpu: Gpu, size: Size, storage: Storage, needed: int, ours: frozenset[int]) -> Finding:
    if gpu.total_bytes is None or gpu.free_bytes is None:
        return ok("memory", f"It needs {readable_bytes(needed)}; the driver names no memory.")
    told = f"the model needs {readable_bytes(needed)} in {storage}"
    if needed > gpu.total_bytes:
        return fault(
            "memory",
            f"{gpu.name} has {readable_bytes(gpu.total_bytes)}; {told}.",
            _smaller(size, storage, gpu.total_bytes),
        )
    if needed > gpu.free_bytes and not any(p.pid in ours for p in gpu.processes):
        pids = ", ".join(f"{process.pid} ({process.name})" for process in gpu.processes)
        end = f"kill {gpu.processes[0].pid}, or " if gpu.processes else ""
        return fault(
            "memory",
            f"{gpu.name} has {readable_bytes(gpu.free_bytes)} of"
            f" {readable_bytes(gpu.total_bytes)} free, taken by"
            f" {pids or 'processes that are not shown to us'}; {told}.",
            f"{end}choose another with --device cuda:N (nvidia-smi shows them)",
        )
    return ok("memory", f"{told[0].upper()}{told[1:]}; {gpu.name} has room for it.")


def _on_host(
    host: Mapping[str, int | None], size: Size, storage: Storage, needed: int, *, is_served: bool
) -> Finding:
    available, total = host.get("available"), host.get("total")
    told = f"the model needs {readable_bytes(needed)} in {storage}"
    if available is None or total is None or is_served or needed <= available:
        return ok("memory", f"{told[0].upper()}{told[1:]}.")
    advice = "end other programs, or " if needed <= total else ""
    return fault(
        "memory",
        f"This machine has {readable_bytes(available)} of {readable_bytes(total)} of memory free;"
        f" {told}.",
        advice + _smaller(size, storage, available),
    )


def _smaller(size: Size, storage: Storage, room: int) -> str:
    half = Storage(dtype=torch.bfloat16, has_fp8_experts=storage.has_fp8_experts)
    if storage.dtype.itemsize > half.dtype.itemsize and size.needed(half) <= room:
        return "moontune serve --dtype bfloat16"
    return "use a machine with more, or a smaller model (moontune model list)"

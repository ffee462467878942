"""`moontune model list`: the models that are known or pulled, and what this machine can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainer.catalog.inspection import columns
from trainer.catalog.known import KNOWN_MODELS, KnownModel, known_model
from trainer.catalog.store import ModelStore
from trainer.device_memory import device_memory, find_shortage, readable_bytes, storage_on
from trainer.loading import LoadError, choose_device, choose_dtype
from trainer.memory import count_parameters, serving_bytes
from trainer.model.checkpoint import inspect_checkpoint
from trainer.model.published_config import MoondreamConfig

_HEAD = ["model", "pulled", "revision", "licence", "needs", "runs here"]
_KEYS = ("model", "pulled", "revision", "licence", "needs", "runs_here")
_NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class _Machine:
    device: torch.device
    dtype: torch.dtype


def report(store: ModelStore) -> list[str]:
    """Lines for a person; the device and the dtype are those of `auto`."""
    machine = _this_machine()
    head = [_machine_line(machine), f"Pulled models lie in {store.root}.", ""]
    return [*head, *columns([_HEAD, *_rows(store, machine)])]


def report_json(store: ModelStore) -> dict[str, Any]:
    """The same for programs; `runs_here` begins with yes or no, `-` is what nobody knows."""
    machine = _this_machine()
    memory = device_memory(machine.device)
    return {
        "device": str(machine.device),
        "dtype": str(machine.dtype).removeprefix("torch."),
        "free_bytes": None if memory is None else memory.free,
        "models_dir": str(store.root),
        "models": [dict(zip(_KEYS, row, strict=True)) for row in _rows(store, machine)],
    }


def _this_machine() -> _Machine:
    device = choose_device("auto")
    return _Machine(device=device, dtype=choose_dtype("auto", device))


def _rows(store: ModelStore, machine: _Machine) -> list[list[str]]:
    names = [model.repository for model in KNOWN_MODELS]
    names += [name for name in store.repositories() if name not in names]
    return [_row(name, store, machine) for name in names]


def _machine_line(machine: _Machine) -> str:
    memory = device_memory(machine.device)
    free = "" if memory is None else f", {readable_bytes(memory.free)} of memory free"
    name = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else "no GPU"
    dtype = str(machine.dtype).removeprefix("torch.")
    return f"This machine: {machine.device} ({name}){free}; weights in {dtype}."


def _row(repository: str, store: ModelStore, machine: _Machine) -> list[str]:
    known = known_model(repository)
    licence = known.licence.name if known else _NOTHING
    revision = (known.revision if known else None) or ""
    try:
        record = store.record(repository)
        if record is not None:
            revision, licence = record.revision, record.licence.name
            pulled = "yes"
            if missing := store.missing_files(record):
                pulled = f"damaged: {', '.join(missing)}"
        else:
            pulled = "unfinished" if store.plan(repository) is not None else "no"
    except LoadError:
        pulled = "damaged: its record"
    needs, runs = _fit(repository, known, store, machine, is_pulled=pulled == "yes")
    return [repository, pulled, revision[:12] or _NOTHING, licence, needs, runs]


def _fit(
    repository: str,
    known: KnownModel | None,
    store: ModelStore,
    machine: _Machine,
    *,
    is_pulled: bool,
) -> tuple[str, str]:
    """What serving it needs, and whether that is here; of a pulled one its files decide."""
    if is_pulled:
        try:
            checkpoint = inspect_checkpoint(store.directory(repository))
        except ValueError as error:
            return _NOTHING, f"no: {str(error).partition(chr(10))[0]}"
        return _verdict(checkpoint.config, machine, has_fp8=checkpoint.has_fp8)
    if known is not None:
        return _verdict(known.config, machine, has_fp8=known.has_fp8)
    return _NOTHING, "unknown before it is pulled"


def _verdict(config: MoondreamConfig, machine: _Machine, *, has_fp8: bool) -> tuple[str, str]:
    count = count_parameters(config)
    storage = storage_on(machine.device, machine.dtype, has_fp8=has_fp8)
    shortage = find_shortage(config, count, storage, machine.device)
    needs = readable_bytes(serving_bytes(config, count, storage))
    return needs, "yes" if shortage is None else f"no: {shortage.short}"

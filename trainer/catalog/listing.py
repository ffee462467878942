"""`moontune model list`: the models that are known or pulled, and what this machine can run."""

from __future__ import annotations

from dataclasses import dataclass

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
_NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class _Machine:
    device: torch.device
    dtype: torch.dtype


def report(store: ModelStore) -> list[str]:
    """Lines for a person; the device and the dtype are those of `auto`."""
    device = choose_device("auto")
    machine = _Machine(device=device, dtype=choose_dtype("auto", device))
    names = [model.repository for model in KNOWN_MODELS]
    names += [name for name in store.repositories() if name not in names]
    rows = [_HEAD, *(_row(name, store, machine) for name in names)]
    return [_machine_line(machine), f"Pulled models lie in {store.root}.", "", *columns(rows)]


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

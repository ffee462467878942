"""Import of an adapter: read strictly, stored as float32 masters, compared with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contract import durable
from contract.engine import FileRef
from trainer.adapters.lora import Adapter
from trainer.exchange.agreement import (
    ROUNDED_FACTORS,
    Agreement,
    Prober,
    compare,
    difference_from_remembered,
)
from trainer.exchange.errors import ExchangeError
from trainer.exchange.exchange_file import read_exchange_file
from trainer.exchange.manifest import file_digest, make_manifest, read_manifest
from trainer.exchange.outgoing import agreement_with_peft
from trainer.exchange.peft_directory import CONFIG_FILE, WEIGHTS_FILE, read_peft, read_peft_config
from trainer.loading import LoadedModel
from trainer.storage import read_tensors, write_tensors

_VENDOR_PREFIX = "moondream/"


@dataclass(frozen=True, kw_only=True)
class Source:
    """An adapter as it came.

    Attributes:
        path: The file or directory.
        weights_file: The file of its tensors.
        adapter: Float32 masters of them, on the CPU.
        base_model: What it says that it belongs to, if it says anything.
        finetune_id, step: Where it comes from, as far as it says.
        manifest: Of its export, if that came along.
    """

    path: Path
    weights_file: Path
    adapter: Adapter
    base_model: str | None
    finetune_id: str
    step: int
    manifest: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An adapter that arrived.

    Attributes:
        weights: The file of its masters.
        rank: 8, 16, 24 or 32.
        source_digest: SHA-256 (hex) of the file that it came in.
        manifest: What it is and how well it agrees, with the manifest it came with as `source`.
    """

    weights: FileRef
    rank: int
    source_digest: str
    manifest: dict[str, Any]


def import_adapter(
    loaded: LoadedModel, path: Path, weights_path: Path, *, any_base: bool = False
) -> Imported:
    """Read an exchange file or a PEFT directory, and write its masters.

    Args:
        weights_path: Where the masters go; must not exist yet.
        any_base: Take it even though it says that it belongs to another base model.

    Raises:
        ExchangeError: It is damaged, of another geometry, rank or base, or does not compute here
            what it computed where it was made; nothing is left.
    """
    source = read_source(path, loaded)
    if not any_base:
        _check_base(source, loaded)
    adapter = source.adapter
    facts = {"imported_from": path.name, "rank": str(adapter.rank)}
    weights = write_tensors(weights_path, adapter.tensors, facts)
    try:
        agreement = _measure(loaded, source, weights, any_base=any_base)
        manifest = make_manifest(
            kind="import",
            finetune_id=source.finetune_id,
            step=source.step,
            rank=adapter.rank,
            model=loaded.info,
            files=[weights_path],
            agreement=agreement,
            largest_logits=[],
        )
    except BaseException:
        durable.remove(weights_path)
        raise
    return Imported(
        weights=weights,
        rank=adapter.rank,
        source_digest=file_digest(source.weights_file),
        manifest={**manifest, "source": source.manifest},
    )


def read_source(path: Path, loaded: LoadedModel) -> Source:
    """Read what came, strictly.

    Raises:
        ExchangeError: It is damaged, or no adapter of this geometry.
    """
    config = loaded.model.config.text
    if not path.exists():
        raise ExchangeError(f"{path} does not exist.")
    if not path.is_dir():
        exchange = read_exchange_file(path)
        finetune_id, step = exchange.facts.get("finetune_id"), exchange.facts.get("step")
        base_model = exchange.facts.get("base_model")
        return Source(
            path=path,
            weights_file=path,
            adapter=exchange.adapter(config),
            base_model=base_model if isinstance(base_model, str) else None,
            finetune_id=finetune_id if isinstance(finetune_id, str) else "",
            step=step if isinstance(step, int) else 0,
            manifest=read_manifest(path, path),
        )
    if not (path / CONFIG_FILE).is_file():
        raise ExchangeError(
            f"{path} holds no {CONFIG_FILE}: it is no PEFT directory. Merged weights are a model"
            " of their own; serve them with --model."
        )
    adapter = read_peft(path, config)
    manifest = read_manifest(path, path / WEIGHTS_FILE)
    return Source(
        path=path,
        weights_file=path / WEIGHTS_FILE,
        adapter=adapter,
        base_model=read_peft_config(path).base_model,
        finetune_id=str((manifest or {}).get("finetune_id", "")),
        step=int((manifest or {}).get("step", 0)),
        manifest=manifest,
    )


def _measure(loaded: LoadedModel, source: Source, weights: FileRef, *, any_base: bool) -> Agreement:
    """What was stored, read back, against the source."""
    model = loaded.model
    stored = Adapter(model.config.text, source.adapter.rank, read_tensors(weights))
    for name, tensor in source.adapter.tensors.items():
        if not torch.equal(stored.tensors[name], tensor):
            raise ExchangeError(f"{name} was not stored as it came. Nothing was kept.")
    device, prober = model.text.wte.device, Prober(model, loaded.language)
    stored = stored.to(device)
    got = prober.ask(stored)
    if source.path.is_dir():
        agreement = agreement_with_peft(prober, stored, source.path)
    else:
        wanted = prober.ask(source.adapter.to(device))
        agreement = compare(got, wanted, prober.base(), dtype=model.text.wte.dtype)
    agreement.require(f"What was read from {source.path}")
    if source.manifest is not None and not any_base:
        _check_remembered(loaded, source, got, agreement)
    return agreement


def _check_remembered(
    loaded: LoadedModel, source: Source, got: list[torch.Tensor], agreement: Agreement
) -> None:
    """In float32 machines agree; what bfloat16 kernels make of a logit depends on the machine."""
    assert source.manifest is not None, "there are notes to compare with"
    if not loaded.info.dtype == source.manifest["base_model"]["dtype"] == "float32":
        return
    off = difference_from_remembered(got, source.manifest["largest_logits"])
    allowed = agreement.threshold + ROUNDED_FACTORS * agreement.max_effect
    if not off <= allowed:
        raise ExchangeError(
            f"With {source.path} the logits differ by {off:.3g} from those noted at its export,"
            f" allowed are {allowed:.3g}. Nothing was kept; --any-base takes it all the same."
        )


def _check_base(source: Source, loaded: LoadedModel) -> None:
    said, name = source.base_model, loaded.info.name
    if source.manifest is not None:
        base = source.manifest["base_model"]
        if base["digest"] != loaded.info.digest:
            raise ExchangeError(
                f"It was exported from base model {base.get('name')!r}, digest"
                f" {str(base['digest'])[:12]}...; loaded is {name!r},"
                f" {loaded.info.digest[:12]}..., another model or another revision. --any-base"
                " takes it all the same."
            )
    elif said is not None and _bare(said) != _bare(name):
        raise ExchangeError(
            f"It belongs to base model {said!r}; loaded is {name!r}. If they are the same weights"
            " under two names, add --any-base."
        )


def _bare(name: str) -> str:
    return name.lower().removeprefix(_VENDOR_PREFIX)

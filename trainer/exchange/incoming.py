"""Import of an adapter: read strictly, stored as float32 masters, compared with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from contract.engine import FileRef
from trainer.adapters.lora import Adapter
from trainer.exchange.agreement import (
    ROUNDED_FACTORS,
    Agreement,
    agreement,
    difference_from_remembered,
    probe,
)
from trainer.exchange.errors import ExchangeError
from trainer.exchange.exchange_file import read_exchange_file
from trainer.exchange.manifest import file_digest, make_manifest, read_manifest
from trainer.exchange.outgoing import probe_with_peft
from trainer.exchange.peft_directory import CONFIG_FILE, WEIGHTS_FILE, read_peft
from trainer.loading import LoadedModel
from trainer.storage import read_tensors, write_tensors

_VENDOR_PREFIX = "moondream/"


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
    loaded: LoadedModel, source: Path, weights_path: Path, *, any_base: bool = False
) -> Imported:
    """Read an exchange file or a PEFT directory, and write its masters.

    Args:
        weights_path: Where the masters go; must not exist yet.
        any_base: Take it even though it says that it belongs to another base model.

    Raises:
        ExchangeError: It is damaged, of another geometry, rank or base, or does not compute here
            what it computed where it was made; nothing is left.
    """
    if not source.exists():
        raise ExchangeError(f"{source} does not exist.")
    manifest = read_manifest(source)
    config = loaded.model.config.text
    said: Mapping[str, Any] = {}
    if source.is_dir():
        if not (source / CONFIG_FILE).is_file():
            raise ExchangeError(
                f"{source} holds no {CONFIG_FILE}: it is no PEFT directory. Merged weights are a"
                " model of their own; serve them with --model."
            )
        adapter, weights_file = read_peft(source, config), source / WEIGHTS_FILE
    else:
        exchange = read_exchange_file(source)
        said, weights_file = exchange.facts, source
        if not any_base:
            _check_base_name(said.get("base_model"), loaded.info.name)
        adapter = exchange.adapter(config)
    if manifest is not None and not any_base:
        _check_base_digest(manifest, loaded)
    facts = {"imported_from": source.name, "rank": str(adapter.rank)}
    weights = write_tensors(weights_path, adapter.tensors, facts)
    try:
        agreed = _compare(loaded, source, weights, adapter.rank, manifest, any_base=any_base)
    except BaseException:
        weights_path.unlink(missing_ok=True)
        raise
    told = make_manifest(
        kind="import",
        finetune_id=str(said.get("finetune_id", "")),
        step=int(said.get("step", 0)),
        rank=adapter.rank,
        model=loaded.info,
        files=[weights_path],
        agreement=agreed,
        largest_logits=[],
    )
    return Imported(
        weights=weights,
        rank=adapter.rank,
        source_digest=file_digest(weights_file),
        manifest={**told, "source": manifest},
    )


def _compare(
    loaded: LoadedModel,
    source: Path,
    weights: FileRef,
    rank: int,
    manifest: Mapping[str, Any] | None,
    *,
    any_base: bool,
) -> Agreement:
    """What was stored against what the source computes by its reader's own rules."""
    model, language = loaded.model, loaded.language
    device, dtype = model.text.wte.device, model.text.wte.dtype
    stored = Adapter(model.config.text, rank, read_tensors(weights)).to(device)
    got = probe(model, language, stored)
    if source.is_dir():
        wanted = probe_with_peft(loaded, source)
    else:
        tensors = {n: t.to(device) for n, t in read_exchange_file(source).tensors.items()}
        wanted = probe(model, language, _ByName(tensors, model.config.text))
    agreed = agreement(got, wanted, probe(model, language, None), dtype=dtype)
    agreed.require(f"What was read from {source}")
    if manifest is not None and not any_base:
        off = difference_from_remembered(got, manifest["largest_logits"])
        share = ROUNDED_FACTORS * agreed.max_effect
        if off > agreed.threshold + share and loaded.info.dtype == manifest["base_model"]["dtype"]:
            raise ExchangeError(
                f"With {source} the logits differ by {off:.3g} from those noted at its export,"
                f" allowed are {agreed.threshold + share:.3g}. Nothing was kept."
            )
    return agreed


class _ByName:
    """An adapter that finds its factors by the names of a file, as other readers do."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Any):
        first = 0 if config.moe is None else config.moe.start_layer
        self._layers: dict[int, SimpleNamespace] = {}
        for name, tensor in tensors.items():
            _, kind, index, factor = name.split(".")
            layer = int(index) + (first if kind == "moe" else 0)
            setattr(self._layers.setdefault(layer, SimpleNamespace()), factor, tensor.float())

    def layer(self, index: int) -> Any:
        return self._layers.get(index)


def _check_base_name(said: object, name: str) -> None:
    if said is None or _bare(str(said)) == _bare(name):
        return
    raise ExchangeError(
        f"The file belongs to base model {said!r}; loaded is {name!r}. If they are the same weights"
        " under two names, add --any-base."
    )


def _check_base_digest(manifest: Mapping[str, Any], loaded: LoadedModel) -> None:
    base = manifest["base_model"]
    if base["digest"] != loaded.info.digest:
        raise ExchangeError(
            f"It was exported from base model {base.get('name')!r} with digest"
            f" {base['digest'][:12]}...; loaded is {loaded.info.name!r} with"
            f" {loaded.info.digest[:12]}..., another model or another revision. --any-base takes"
            " it all the same."
        )


def _bare(name: str) -> str:
    return name.lower().removeprefix(_VENDOR_PREFIX)

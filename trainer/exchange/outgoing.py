"""Export of a saved adapter: written aside, read back, compared, and only then given its name."""

from __future__ import annotations

import gc
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract import durable
from contract.engine import AdapterRef, ExportedFile
from trainer.adapters.lora import Adapter
from trainer.exchange.agreement import (
    MOST_LOST,
    ROUNDED_FACTORS,
    Agreement,
    Prober,
    compare,
    layer_outputs,
    lost_share,
    remembered,
)
from trainer.exchange.errors import ExchangeError
from trainer.exchange.exchange_file import read_exchange_file, write_exchange_file
from trainer.exchange.manifest import make_manifest, manifest_path, write_manifest
from trainer.exchange.merged import write_merged
from trainer.exchange.peft_directory import read_peft, write_peft
from trainer.loading import LoadedModel, load
from trainer.model.checkpoint import inspect_checkpoint


class Kind(StrEnum):
    """The forms in which an adapter leaves."""

    EXCHANGE = "exchange"
    PEFT = "peft"
    MERGED = "merged"


@dataclass(frozen=True, kw_only=True)
class Export:
    """An adapter on its way out: what it is, and what it computes.

    Attributes:
        ref: Whose and which step.
        wanted: Logits of the fixed questions with the adapter.
    """

    loaded: LoadedModel
    prober: Prober
    ref: AdapterRef
    adapter: Adapter
    wanted: Sequence[Tensor]

    @classmethod
    def of(
        cls, loaded: LoadedModel, ref: AdapterRef, adapter: Adapter, prober: Prober | None = None
    ) -> Export:
        """Ask the fixed questions.

        Args:
            prober: Of the loaded model, if there is one that has asked already.
        """
        prober = prober or Prober(loaded.model, loaded.language)
        wanted = prober.ask(adapter)
        return cls(loaded=loaded, prober=prober, ref=ref, adapter=adapter, wanted=wanted)

    def compare(self, got: Sequence[Tensor], *, effect_share: float = 0.0) -> Agreement:
        dtype = self.loaded.model.text.wte.dtype
        base = self.prober.base()
        return compare(got, self.wanted, base, dtype=dtype, effect_share=effect_share)

    def manifest(self, kind: Kind, files: Sequence[Path], agreement: Agreement) -> dict[str, Any]:
        return make_manifest(
            kind=kind.value,
            finetune_id=self.ref.finetune_id,
            step=self.ref.step,
            rank=self.ref.rank,
            model=self.loaded.info,
            files=files,
            agreement=agreement,
            largest_logits=remembered(self.wanted),
        )


def write_exchange(export: Export, path: Path) -> ExportedFile:
    """Write the exchange file; durable, but not a word beside it.

    Raises:
        ExchangeError: What was written is not the adapter, rounded once, or gives logits that are
            no numbers; nothing is left. Other differences are told and refuse nothing: rounding a
            factor may send a token to another expert, which moves a logit by any amount.
        StorageFull: There is no space; nothing is left.
    """
    file = write_exchange_file(
        path,
        export.adapter,
        finetune_id=export.ref.finetune_id,
        step=export.ref.step,
        base_model=export.loaded.info.name,
    )
    try:
        written = read_exchange_file(path).adapter(export.loaded.model.config.text)
        for name, tensor in export.adapter.tensors.items():
            if not torch.equal(written.tensors[name], tensor.cpu().bfloat16().float()):
                raise ExchangeError(f"{name} was not written as it is. Nothing was kept.")
        agreement = export.compare(
            export.prober.ask(written.to(export.loaded.model.text.wte.device)),
            effect_share=ROUNDED_FACTORS,
        )
        if not math.isfinite(agreement.max_difference):
            agreement.require("The exchange file")
    except BaseException:
        durable.remove(path)
        raise
    return ExportedFile(file=file, manifest=export.manifest(Kind.EXCHANGE, [path], agreement))


def export_exchange(export: Export, path: Path) -> dict[str, Any]:
    """Write the exchange file with its manifest beside it; returns the manifest.

    Raises:
        ExchangeError: See `write_exchange`, or there is something of that name.
    """
    _require_free(path)
    with _made_aside(path) as aside:
        manifest = write_exchange(export, aside / path.name).manifest
        write_manifest(aside / path.name, manifest)
        durable.sync_tree(aside)
        for made in (manifest_path(aside / path.name), aside / path.name):
            durable.rename(made, path.parent / made.name)
    return manifest


def export_peft(export: Export, directory: Path) -> dict[str, Any]:
    """Write a PEFT directory, and have PEFT itself apply it; returns the manifest.

    Raises:
        ExchangeError: PEFT computes something else, or the directory exists.
    """
    _require_free(directory)
    loaded, config = export.loaded, export.loaded.model.config.text
    with _made_aside(directory) as aside:
        made = aside / directory.name
        write_peft(made, export.adapter, config, base_model=loaded.info.name)
        written = read_peft(made, config)
        for name, tensor in export.adapter.tensors.items():
            if not torch.equal(written.tensors[name], tensor.cpu()):
                raise ExchangeError(f"{name} was not written as it is. Nothing was kept.")
        agreement = agreement_with_peft(export.prober, export.adapter, made)
        agreement.require("The PEFT directory")
        manifest = export.manifest(Kind.PEFT, sorted(made.iterdir()), agreement)
        write_manifest(made, manifest)
        durable.sync_tree(made)
        durable.rename(made, directory)
    return manifest


def export_merged(
    export: Export, source: Path, directory: Path, *, dtype: torch.dtype | None, tokenizer: Path
) -> dict[str, Any]:
    """Write merged weights, and load them as a model of their own; returns the manifest.

    The model of `export` is emptied first: the two never stand in memory together.

    Args:
        source: The directory of the base model.
        dtype: Of the merged weights; None: as the base model is stored.

    Raises:
        ExchangeError: They compute something else, or the directory exists.
    """
    _require_free(directory)
    info, model = export.loaded.info, export.loaded.model
    base_logits, compute_dtype = export.prober.base(), model.text.wte.dtype
    base, wanted = layer_outputs(model, None), layer_outputs(model, export.adapter)
    model.model.to("meta")
    _give_memory_back()
    with _made_aside(directory) as aside:
        made = aside / directory.name
        checkpoint = inspect_checkpoint(source)
        dtype = dtype or checkpoint.stored_dtype
        write_merged(made, checkpoint, export.adapter, dtype=dtype, tokenizer=tokenizer)
        merged = load(made, name=info.name, device=info.device, dtype=info.dtype)
        agreement = compare(
            Prober(merged.model, merged.language).ask(None),
            export.wanted,
            base_logits,
            dtype=torch.bfloat16 if torch.bfloat16 in (dtype, compute_dtype) else dtype,
        ).with_layers(lost_share(layer_outputs(merged.model, None), wanted, base), MOST_LOST)
        agreement.require("The merged model", hint="--dtype float32 keeps more of an adapter.")
        manifest = export.manifest(Kind.MERGED, sorted(made.iterdir()), agreement)
        write_manifest(made, manifest)
        durable.sync_tree(made)
        durable.rename(made, directory)
    return manifest


def agreement_with_peft(prober: Prober, adapter: Adapter, directory: Path) -> Agreement:
    """What PEFT computes with a directory, against an adapter of ours.

    The model is as it was afterwards, unless PEFT refuses: then it must not be used any more.

    Raises:
        ExchangeError: PEFT is not installed, or refuses.
    """
    try:
        from peft import PeftModel  # here, as no other verb needs it
    except ImportError as error:
        raise ExchangeError(
            "PEFT directories need the package peft: pip install 'moontune[trainer]'."
        ) from error
    model = prober.model
    wanted, base = prober.ask(adapter), prober.base()
    layers, base_layers = layer_outputs(model, adapter), layer_outputs(model, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        try:
            applied = PeftModel.from_pretrained(
                model, str(directory), torch_device=str(model.text.wte.device)
            )
        except Exception as error:  # whatever a directory from elsewhere makes of it
            raise ExchangeError(f"PEFT cannot apply {directory}: {error}") from error
        try:
            agreement = compare(prober.ask(None), wanted, base, dtype=model.text.wte.dtype)
            return agreement.with_layers(
                lost_share(layer_outputs(model, None), layers, base_layers)
            )
        finally:
            applied.unload()


def _give_memory_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _require_free(target: Path) -> None:
    if target.exists():
        raise ExchangeError(f"{target} exists already; name something that does not.")
    if not target.parent.is_dir():
        raise ExchangeError(f"{target.parent} is no directory; make it first.")


@contextmanager
def _made_aside(target: Path) -> Iterator[Path]:
    """A folder of its own beside `target`, gone when the block ends."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)

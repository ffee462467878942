"""Export of a saved adapter: written aside, read back, compared, and only then given its name."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract.engine import AdapterRef, ExportedFile
from trainer.adapters.lora import Adapter
from trainer.exchange.agreement import ROUNDED_FACTORS, Agreement, agreement, probe, remembered
from trainer.exchange.errors import ExchangeError
from trainer.exchange.exchange_file import read_exchange_file, write_exchange_file
from trainer.exchange.manifest import make_manifest, write_manifest
from trainer.exchange.merged import write_merged
from trainer.exchange.peft_directory import write_peft
from trainer.loading import LoadedModel, load
from trainer.model.checkpoint import inspect_checkpoint

KINDS = ("exchange", "peft", "merged")


@dataclass(frozen=True, kw_only=True)
class Export:
    """An adapter on its way out: what it is, and what it computes.

    Attributes:
        ref: Whose and which step.
        wanted: Logits of the fixed questions with the adapter.
        base: The same without it.
    """

    loaded: LoadedModel
    ref: AdapterRef
    adapter: Adapter
    wanted: Sequence[Tensor]
    base: Sequence[Tensor]

    @classmethod
    def of(cls, loaded: LoadedModel, ref: AdapterRef, adapter: Adapter) -> Export:
        """Ask the fixed questions."""
        return cls(
            loaded=loaded,
            ref=ref,
            adapter=adapter,
            wanted=probe(loaded.model, loaded.language, adapter),
            base=probe(loaded.model, loaded.language, None),
        )

    def compare(self, got: Sequence[Tensor], *, effect_share: float = 0.0) -> Agreement:
        dtype = self.loaded.model.text.wte.dtype
        return agreement(got, self.wanted, self.base, dtype=dtype, effect_share=effect_share)

    def manifest(self, kind: str, files: Sequence[Path], agreed: Agreement) -> dict[str, Any]:
        return make_manifest(
            kind=kind,
            finetune_id=self.ref.finetune_id,
            step=self.ref.step,
            rank=self.ref.rank,
            model=self.loaded.info,
            files=files,
            agreement=agreed,
            largest_logits=remembered(self.wanted),
        )


def export_exchange(export: Export, path: Path) -> ExportedFile:
    """Write the exchange file.

    Raises:
        ExchangeError: What was written does not compute the same; nothing is left.
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
        loaded = export.loaded
        written = read_exchange_file(path).adapter(loaded.model.config.text)
        got = probe(loaded.model, loaded.language, written.to(loaded.model.text.wte.device))
        agreed = export.compare(got, effect_share=ROUNDED_FACTORS)
        agreed.require("The exchange file")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return ExportedFile(file=file, manifest=export.manifest("exchange", [path], agreed))


def export_peft(export: Export, directory: Path) -> dict[str, Any]:
    """Write a PEFT directory, and have PEFT itself apply it; returns the manifest.

    Raises:
        ExchangeError: PEFT computes something else, or the directory exists.
    """
    with _made_aside(directory) as aside:
        loaded = export.loaded
        name = loaded.info.name
        write_peft(aside, export.adapter, loaded.model.config.text, base_model=name)
        agreed = export.compare(probe_with_peft(loaded, aside))
        agreed.require("The PEFT directory")
        manifest = export.manifest("peft", sorted(aside.iterdir()), agreed)
        write_manifest(aside, manifest)
    return manifest


def export_merged(
    export: Export, source: Path, directory: Path, *, dtype: torch.dtype, tokenizer: Path
) -> dict[str, Any]:
    """Write merged weights, and load them as a model of their own; returns the manifest.

    The model of `export` is emptied first: the two never stand in memory together.

    Args:
        source: The directory of the base model.
        dtype: Of the merged weights.

    Raises:
        ExchangeError: They compute something else, or the directory exists.
    """
    info = export.loaded.info
    with _made_aside(directory) as aside:
        checkpoint = inspect_checkpoint(source)
        write_merged(aside, checkpoint, export.adapter, dtype=dtype, tokenizer=tokenizer)
        compute_dtype = export.loaded.model.text.wte.dtype
        export.loaded.model.model.to("meta")
        merged = load(aside, name=info.name, device=info.device, dtype=info.dtype)
        agreed = agreement(
            probe(merged.model, merged.language, None),
            export.wanted,
            export.base,
            dtype=torch.bfloat16 if torch.bfloat16 in (dtype, compute_dtype) else dtype,
        )
        agreed.require("The merged model; --dtype float32 keeps more of a small adapter. It")
        manifest = export.manifest("merged", sorted(aside.iterdir()), agreed)
        write_manifest(aside, manifest)
    return manifest


def probe_with_peft(loaded: LoadedModel, directory: Path) -> list[Tensor]:
    """The logits of the fixed questions when PEFT applies a directory; the model stays as it was.

    Raises:
        ExchangeError: PEFT is not installed, or refuses.
    """
    try:
        from peft import PeftModel  # here, as no other verb needs it
    except ImportError as error:
        raise ExchangeError(
            "PEFT directories need the package peft: pip install 'moontune[trainer]'."
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        try:
            applied = PeftModel.from_pretrained(loaded.model, str(directory))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ExchangeError(f"PEFT cannot apply {directory}: {error}") from error
        try:
            return probe(loaded.model, loaded.language, None)
        finally:
            applied.unload()


@contextmanager
def _made_aside(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` that takes its name when the block succeeds.

    Raises:
        ExchangeError: There is something of that name.
    """
    if directory.exists():
        raise ExchangeError(f"{directory} exists already; name a directory that does not.")
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.rename(directory)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(aside)
        raise

"""What the SDK runs in its own process: it asks no server, so none can serve it."""

from __future__ import annotations

import importlib.util

import moondream as md
import pytest

from tests.compat.bench import Bench
from tests.compat.case import Client, Table

TABLE = Table(Client.SDK_LOCAL)

NO_HOST = (
    "runs the proprietary engine in the caller's process and accepts only its own addresses; "
    "checkpoints can be fetched by the download call"
)
METHODS = (
    "asynthesize", "atranscribe", "caption", "chat", "close", "detect", "encode_image", "invoke",
    "model_id", "point", "query", "run", "segment", "stream", "supports", "synthesize", "tasks",
    "transcribe",
)  # fmt: skip


def has_engine() -> bool:
    return importlib.util.find_spec("kestrel") is not None


@TABLE.row(
    "`md.vl(local=True, model)`, `md.photon(model, api_key)` and the methods of its client",
    "vl",
    "photon",
    *(f"PhotonClient.{name}" for name in METHODS),
    differs=NO_HOST,
)
def photon(bench: Bench) -> str:
    assert not has_engine(), "the engine is installed: this row was never tried with it"
    with pytest.raises(ImportError):
        md.photon("moondream3-preview", endpoint=bench.v1)
    with pytest.raises(ImportError):
        md.vl(local=True, model="moondream3-preview", endpoint=bench.v1)
    return "ends at the import of the engine, which is not installed; nothing is sent"


@TABLE.row("`md.photon_models()`", "photon_models", differs="lists the models of that engine")
def photon_models(bench: Bench) -> str:
    with pytest.raises(ImportError):
        md.photon_models()
    return "the same"

"""What `moontune model inspect` and `moontune model list` tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import device_memory
from trainer.catalog import inspection, listing
from trainer.catalog.licences import APACHE
from trainer.catalog.store import ModelStore, Plan, PulledFile, Record
from trainer.loading import LoadError
from trainer.model.layouts import CheckpointError

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tiny" / "checkpoint"
ORACLE = ROOT / "tests" / "reference" / "oracle" / "moondream3"
GB_IN_KB = 10**9 // 1024


@pytest.fixture(autouse=True)
def _a_machine_without_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {16 * GB_IN_KB} kB\nMemAvailable: {10 * GB_IN_KB} kB\n")
    monkeypatch.setattr(device_memory, "MEMINFO", meminfo)


def facts(lines: list[str]) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in lines[: lines.index("")])


def table(lines: list[str]) -> dict[str, list[str]]:
    rows = (line.split("  ") for line in lines[lines.index("") + 1 :])
    return {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}


def pulled_tiny(store: ModelStore) -> str:
    """Lay the tiny checkpoint where a pull would."""
    directory = store.directory("some/tiny")
    shutil.copytree(TINY, directory)
    size = (TINY / "config.json").stat().st_size
    store.write_record(
        Record(
            repository="some/tiny",
            revision="0123456789abcdef" + "0" * 24,
            licence=APACHE,
            files=(PulledFile(name="config.json", size=size, sha256=""),),
            tokenizer_repository="some/tokenizer",
            tokenizer_revision="1" * 40,
            pulled_at="2026-01-02T03:04:05+00:00",
        )
    )
    return "some/tiny"


def test_a_checkpoint_tells_family_layout_dtype_and_parameters() -> None:
    told = facts(inspection.report(ORACLE, rank=8))
    assert told["family"] == "moondream3"
    assert told["layout"] == "Hugging Face names, model.safetensors"
    assert told["stored"] == "as   6.6 MB float32; 6.6 MB in all"
    total = sum(tensor.numel() for tensor in load_file(ORACLE / "model.safetensors").values())
    assert told["parameters"].startswith(f"{total / 1e6:.2f} M, ")
    assert told["tokenizer"] == "fits the model"
    assert told["licence"].startswith("not recorded")


def test_memory_is_told_for_each_dtype_and_adds_up() -> None:
    told = table(inspection.report(ORACLE, rank=8))
    assert told["memory"] == ["bfloat16", "float32"]
    assert told["weights"] == ["3.3 MB", "6.6 MB"]
    assert set(told) >= {
        "serving, together",
        "training, together",
        "training, layers computed again",
    }
    assert "adapter of rank 8 and its optimizer" in told


def test_a_pulled_model_tells_its_licence(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    told = facts(inspection.report(store.directory(pulled_tiny(store)), rank=8))
    assert told["licence"] == f"{APACHE.name}: {APACHE.meaning}"
    assert told["pulled"].startswith("some/tiny, revision 0123456789abcdef")


def test_a_tokenizer_that_does_not_fit_is_told(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert "missing" in facts(inspection.report(tmp_path / "model", rank=8))["tokenizer"]
    with pytest.raises(LoadError, match="its tokenizer is no good: missing"):
        inspection.check(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    assert "cannot be read" in facts(inspection.report(tmp_path / "model", rank=8))["tokenizer"]


def test_weights_that_miss_a_tensor_are_told(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    tensors = load_file(TINY / "model.safetensors")
    del tensors["model.text.wte"]
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing model\.text\.wte"):
        inspection.report(tmp_path / "model", rank=8)
    with pytest.raises(LoadError, match=r"cannot be loaded: .*\n.*missing model\.text\.wte"):
        inspection.check(tmp_path / "model")


def test_the_list_shows_what_runs_here_and_why_not(tmp_path: Path) -> None:
    lines = listing.report(ModelStore(tmp_path / "models"))
    assert lines[0] == "This machine: cpu (no GPU), 10.0 GB of memory free; weights in float32."
    rows = {line.split()[0]: line for line in lines[3:]}
    assert rows["vikhyatk/moondream2"].endswith("Apache-2.0                   8.9 GB   yes")
    preview = rows["moondream/moondream3-preview"]
    # 19.2 GB in bfloat16 would not fit either, so it is not advised
    assert preview.endswith("no: cpu has 10.0 GB of 16.0 GB free: use a machine with more")
    assert "BSL 1.1" in preview


def test_the_list_shows_what_was_pulled_and_what_was_begun(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    pulled_tiny(store)
    for name in ("some/begun", "some/odd"):
        store.directory(name).mkdir(parents=True)
        store.write_plan(Plan(repository=name, revision="2" * 40, is_fp8=False))
    (store.directory("some/odd") / "moontune.json").write_text("not JSON")
    rows = {line.split()[0]: line.split(maxsplit=5) for line in listing.report(store)[3:]}
    assert rows["some/tiny"][1:4] == ["yes", "0123456789ab", "Apache-2.0"]
    assert rows["some/tiny"][5].endswith("yes")
    assert rows["some/begun"][1] == "unfinished"
    assert rows["some/odd"][1] == "damaged:"


def test_a_pulled_model_that_is_damaged_is_shown_as_such(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    (store.directory(pulled_tiny(store)) / "config.json").write_text("{}")
    line = listing.report(store)[-1]
    assert "damaged: config.json" in line

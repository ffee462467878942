"""Loading a model: devices and files that are not there are refused in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from trainer import device_memory
from trainer.loading import LoadError, checkpoint_digest, choose_device, in_percent, load

ORACLE = Path(__file__).parents[2] / "reference" / "oracle" / "moondream3"


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "cpu:0", "meta", "CUDA"])
def test_words_that_are_no_device_are_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(LoadError, match="auto, cpu, cuda and cuda:N"):
        choose_device(device)


def test_a_device_beyond_those_of_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("auto") == torch.device("cuda")
    with pytest.raises(LoadError, match="cuda:2 was asked for, but torch sees 2 of them"):
        choose_device("cuda:2")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(LoadError, match="torch sees no CUDA device"):
        choose_device("cuda")


def test_a_directory_without_a_model_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"holds no config\.json; --model wants"):
        load(tmp_path, name="x", device="cpu", dtype="auto")


def test_a_download_that_broke_off_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(ORACLE / name, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(LoadError, match=r"cannot be read .*; fetch it again"):
        load(tmp_path, name="x", device="cpu", dtype="auto")


def test_progress_is_told_in_tens_of_percent():
    told = []
    on_progress = in_percent(told.append)
    for done in range(0, 20_000_000_001, 500_000_000):
        on_progress(done, 20_000_000_000)
    assert told == [f"{percent} % of 20.0 GB" for percent in range(10, 101, 10)]


def test_small_models_load_without_telling():
    told = []
    in_percent(told.append)(11_000_000, 11_000_000)
    assert told == []


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  4096 kB\nMemFree:  1 kB\nMemAvailable:  2048 kB\n")
    monkeypatch.setattr(device_memory, "MEMINFO", meminfo)
    told = []
    with pytest.raises(LoadError) as refusal:
        load(
            ORACLE, name="oracle", device="cpu", dtype="auto", on_progress=lambda *_: told.append(1)
        )
    assert told == []
    assert "oracle needs" in str(refusal.value)
    assert "but cpu has 2.1 MB of 4.2 MB free" in str(refusal.value)
    assert len(str(refusal.value)) < 300, "the server cuts longer lines"


def test_the_record_of_a_pull_is_no_part_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = checkpoint_digest(tmp_path)
    (tmp_path / "moontune.json").write_text('{"pulled_at": "now"}')
    assert checkpoint_digest(tmp_path) == before
    (tmp_path / "model_fp8.pt").write_bytes(b"weights")
    assert checkpoint_digest(tmp_path) != before

"""Whether a model fits a device; the device is replaced, the models are the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer import device_memory
from trainer.device_memory import find_shortage, readable_bytes
from trainer.memory import Storage, count_parameters
from trainer.model.published_config import MoondreamConfig

MOONDREAM3 = MoondreamConfig.from_published({"model_type": "moondream3"})
MOONDREAM2 = MoondreamConfig.from_published({"model_type": "moondream1"})
CUDA = torch.device("cuda")
FLOAT32, BF16 = Storage(dtype=torch.float32), Storage(dtype=torch.bfloat16)
FP8 = Storage(dtype=torch.bfloat16, has_fp8_experts=True)
GB = 10**9


def reason_on_gpu(
    monkeypatch: pytest.MonkeyPatch,
    storage: Storage,
    *,
    free: int,
    total: int,
    capability: tuple[int, int] = (9, 0),
    config: MoondreamConfig = MOONDREAM3,
) -> str | None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, total))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    shortage = find_shortage(config, count_parameters(config), storage, CUDA)
    return None if shortage is None else str(shortage)


def test_a_gpu_with_room_for_weights_a_picture_and_one_sequence_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 18.54 of weights, 0.47 of a picture, 0.19 of keys and values
    assert reason_on_gpu(monkeypatch, BF16, free=20 * GB, total=24 * GB) is None
    assert reason_on_gpu(monkeypatch, BF16, free=19 * GB, total=19 * GB) is not None
    assert reason_on_gpu(monkeypatch, FP8, free=12 * GB, total=12 * GB) is None


def test_the_reason_says_what_is_needed_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_on_gpu(monkeypatch, BF16, free=8 * GB, total=8 * GB)
    assert reason == (
        "needs 19.2 GB in bfloat16 (18.5 GB of it weights), but cuda has 8.0 GB of 8.0 GB free:"
        " choose another device"
    )


def test_fp8_weights_are_advised_only_where_they_would_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advised = "take fp8 weights such as moondream/moondream3.1-9B-A2B (11.2 GB)"
    sixteen = {"free": 16 * GB, "total": 16 * GB}
    assert advised in (reason_on_gpu(monkeypatch, BF16, **sixteen) or "")
    older = reason_on_gpu(monkeypatch, BF16, **sixteen, capability=(8, 6))
    assert "fp8" not in (older or "fp8")
    dense = reason_on_gpu(monkeypatch, BF16, free=GB, total=16 * GB, config=MOONDREAM2)
    assert "fp8" not in (dense or "fp8")


def test_what_else_runs_on_a_large_enough_gpu_should_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_on_gpu(monkeypatch, BF16, free=5 * GB, total=80 * GB)
    assert (reason or "").endswith("free: stop what else runs there")


def test_bfloat16_is_advised_where_float32_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_on_gpu(monkeypatch, FLOAT32, free=24 * GB, total=24 * GB, capability=(8, 0))
    assert (reason or "").endswith("free: --dtype bfloat16 (19.2 GB)")


def test_the_cpu_is_asked_by_what_the_kernel_calls_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16000000 kB\nMemAvailable:  8000000 kB\nHugePages_Total:  0\n")
    monkeypatch.setattr(device_memory, "MEMINFO", meminfo)
    memory = device_memory.device_memory(cpu)
    assert memory is not None
    assert (memory.free, memory.total) == (8_192_000_000, 16_384_000_000)
    count = count_parameters(MOONDREAM3)
    assert "use a machine with more" in str(find_shortage(MOONDREAM3, count, BF16, cpu))


@pytest.mark.parametrize("text", [None, "", "MemTotal:  16000000 kB\n"], ids=repr)
def test_where_nobody_says_what_is_free_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(device_memory, "MEMINFO", tmp_path / "meminfo")
    count = count_parameters(MOONDREAM3)
    assert find_shortage(MOONDREAM3, count, FLOAT32, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(18_537_253_856, "18.5 GB"), (629_145_600, "629 MB"), (5_608_472, "5.6 MB")],
)
def test_sizes_read_in_three_digits(num_bytes: int, text: str) -> None:
    assert readable_bytes(num_bytes) == text

"""`python -m trainer doctor`: faults of the GPU, of torch and of the model, each seeded.

GPUs are what a made-up `nvidia-smi` says; models and the hub are real ones, small and near.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.findings import Finding, Level
from tests.hub_stand_in import Repository, run_hub
from trainer.catalog.hub import Hub
from trainer.catalog.known import KNOWN_MODELS
from trainer.catalog.licences import APACHE
from trainer.catalog.store import ModelStore, Plan, PulledFile, Record
from trainer.doctor import models, packages
from trainer.doctor.commands import examine
from trainer.doctor.facts import Answered, Facts, Gpu, GpuProcess, Torch, ask_torch, gather
from trainer.memory import Storage, serving_bytes

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tiny" / "checkpoint"
MODEL = "some/tiny"
GIB = 1 << 30
H200 = "0, GPU-6c1a, NVIDIA H200, 580.95.05, 143771, 4, Default, Disabled, 9.0"
GPU_TORCH = Torch(version="2.13.0+cu130", cuda="13.0", num_devices=1, oldest_capability=(7, 5))
GPU = Gpu(
    index=0,
    uuid="GPU-6c1a",
    name="NVIDIA H200",
    driver="580.95.05",
    total_bytes=140 * GIB,
    free_bytes=139 * GIB,
    capability=(9, 0),
)
WELL = Facts(torch=GPU_TORCH, gpus=(GPU,), num_gpus_on_bus=1)
OTHER = GpuProcess(pid=4242, name="python3")


def arguments(**changes: object) -> SimpleNamespace:
    given = {
        "model": str(TINY),
        "models_dir": Path("/none"),
        "name": "tiny",
        "device": "auto",
        "dtype": "auto",
        "deep": False,
        "ours": [],
    }
    return SimpleNamespace(**{**given, **changes})


def only_fault(findings: Sequence[Finding]) -> Finding:
    (fault,) = [finding for finding in findings if finding.level is Level.FAULT]
    return fault


def on(**changes: object) -> Facts:
    """The healthy facts with another GPU."""
    return dataclasses.replace(WELL, gpus=(dataclasses.replace(GPU, **changes),))


def with_torch(**changes: object) -> Facts:
    return dataclasses.replace(WELL, torch=dataclasses.replace(GPU_TORCH, **changes))


def test_who_is_well_hears_so() -> None:
    found = examine(arguments(), WELL)
    assert [finding.level for finding in found] == [Level.OK] * len(found)
    assert [finding.check for finding in found] == [
        *("packages", "torch", "gpu", "torch-build", "gpu-visible", "gpu-mode", "model", "memory")
    ]


MACHINES: tuple[tuple[str, Facts, dict[str, object], str, str, str], ...] = (
    # what it is, the facts, the options, the check, words of the cause, words of the cure
    (
        "no GPU",
        Facts(torch=Torch(version="2.13.0+cpu")),
        {"device": "cuda"},
        *("gpu", "this machine has no GPU", "--device cpu"),
    ),
    (
        "no driver",
        Facts(torch=Torch(version="2.13.0+cpu"), num_gpus_on_bus=2),
        {},
        *("gpu", "2 are in the machine, without a driver", "modprobe nvidia"),
    ),
    (
        "driver that does not answer",
        Facts(torch=GPU_TORCH, driver_error="Failed to initialize NVML: mismatch"),
        {},
        *("gpu", "Failed to initialize NVML", "restart the machine"),
    ),
    (
        "old driver",
        on(driver="550.54.15"),
        {},
        *("torch-build", r"550\.54\.15 is too old .* CUDA 13\.0 .* 580\.65", "driver-580"),
    ),
    (
        "torch for the CPU",
        with_torch(version="2.13.0+cpu", cuda=None, num_devices=0),
        {},
        *("torch-build", "built for the CPU, and there is a GPU", "force-reinstall 'torch"),
    ),
    (
        "old GPU",
        on(capability=(6, 1), name="GTX 1080"),
        {},
        *("torch-build", r"GTX 1080 has compute capability 6\.1; .* 7\.5", "--device cpu"),
    ),
    (
        "hidden GPU",
        dataclasses.replace(with_torch(num_devices=0), visible=""),
        {},
        *("gpu-visible", "CUDA_VISIBLE_DEVICES= hides", "^unset CUDA_VISIBLE_DEVICES"),
    ),
    (
        "GPU that torch cannot use",
        with_torch(num_devices=0),
        {},
        *("gpu-visible", "that torch cannot use", "torch.zeros"),
    ),
    (
        "index too high",
        WELL,
        {"device": "cuda:3"},
        *("gpu-visible", "sees 1, numbered from 0", "--device cuda:0"),
    ),
    (
        "exclusive mode, taken",
        on(compute_mode="Exclusive_Process", processes=(OTHER,)),
        {},
        *("gpu-mode", r"has 4242 \(python3\)", "-c DEFAULT, or .* kill 4242"),
    ),
    (
        "prohibited",
        on(compute_mode="Prohibited"),
        {},
        *("gpu-mode", "no process", "sudo nvidia-smi -i 0 -c DEFAULT"),
    ),
    (
        "taken memory",
        on(free_bytes=1 << 20, processes=(OTHER,)),
        {},
        *("memory", r"taken by 4242 \(python3\); the model needs", "^kill 4242, or"),
    ),
    (
        "small GPU",
        on(total_bytes=8 << 20, free_bytes=8 << 20),
        {"dtype": "float32"},
        *("memory", r"has 8\.4 MB; the model needs 21 MB in float32", "a machine with more"),
    ),
    (
        "wrong torch",
        with_torch(version="2.9.1+cu128"),
        {},
        *("torch", r"torch 2\.9\.1\+cu128 .* 2\.11 to 2\.13", r"'torch>=2\.11,<2\.14'"),
    ),
    (
        "broken torch",
        Facts(torch=Torch(error="libcudart.so.13: cannot open shared object file")),
        {"device": "cpu"},
        *("torch", "libcudart", r"moontune\[trainer\]"),
    ),
)


@pytest.mark.parametrize(
    ("facts", "options", "check", "cause", "cure"),
    [case[1:] for case in MACHINES],
    ids=[case[0] for case in MACHINES],
)
def test_a_seeded_fault_is_found_alone_with_cause_and_cure(
    facts: Facts, options: dict[str, object], check: str, cause: str, cure: str
) -> None:
    fault = only_fault(examine(arguments(**options), facts))
    assert fault.check == check
    assert re.search(cause, fault.cause), fault.cause
    assert re.search(cure, fault.cure), fault.cure


def test_a_divided_gpu_without_an_instance_is_told() -> None:
    facts = dataclasses.replace(on(has_mig=True, total_bytes=None, free_bytes=None))
    assert [f.check for f in examine(arguments(), facts) if f.level is Level.WARNING] == [
        "gpu-mode"
    ]
    empty = dataclasses.replace(facts, torch=dataclasses.replace(GPU_TORCH, num_devices=0))
    told = {f.check: f for f in examine(arguments(), empty) if f.level is Level.FAULT}
    assert "-cgi 0 -C" in told["gpu-mode"].cure


def test_our_own_server_may_fill_the_gpu() -> None:
    facts = on(free_bytes=0, processes=(OTHER,), compute_mode="Exclusive_Process")
    found = examine(arguments(ours=[4242]), facts)
    assert not [finding for finding in found if finding.level is Level.FAULT]


def test_without_a_gpu_only_large_models_are_warned_of() -> None:
    facts = Facts(torch=Torch(version="2.13.0+cpu"))
    assert all(finding.level is Level.OK for finding in examine(arguments(), facts))
    found = examine(arguments(name="", device="auto"), facts)
    assert [f.check for f in found if f.level is Level.WARNING] == ["gpu"]


def test_missing_packages_are_named_with_the_extra() -> None:
    found = packages.check_packages(lambda name: name not in ("peft", "transformers"))
    assert found.cause == "transformers, peft cannot be found."
    assert found.cure == "pip install 'moontune[trainer]'"


# --- how facts are gathered


def smi(gpus: str, processes: str = "", status: int = 0) -> Callable[..., Answered]:
    """A made-up nvidia-smi."""

    def ask(command: Sequence[str]) -> Answered:
        assert command[0] == "nvidia-smi"
        is_gpus = command[1].startswith("--query-gpu=")
        return Answered(status=status, out=gpus if is_gpus else processes)

    return ask


def test_what_nvidia_smi_says_is_read(tmp_path: Path) -> None:
    for number, (vendor, kind) in enumerate((("0x10de", "0x030200"), ("0x8086", "0x030000"))):
        device = tmp_path / str(number)
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    mig = "1, GPU-77, NVIDIA A100, 580.95.05, [N/A], [N/A], Default, Enabled, 8.0"
    facts = gather(
        {"CUDA_VISIBLE_DEVICES": "1,GPU-6c"},
        ask=smi(f"{H200}\n{mig}\n", "GPU-6c1a, 4242, python3\n"),
        bus=tmp_path,
        torch=lambda: GPU_TORCH,
    )
    first, second = facts.gpus
    assert first == dataclasses.replace(
        GPU, total_bytes=143771 << 20, free_bytes=143767 << 20, processes=(OTHER,)
    )
    assert (second.has_mig, second.total_bytes, second.capability) == (True, None, (8, 0))
    assert facts.visible_gpus == (second, first)
    assert facts.num_gpus_on_bus == 1


def test_a_driver_that_fails_and_a_machine_without_one(tmp_path: Path) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\nMore"
    facts = gather({}, ask=smi(said, status=9), bus=tmp_path, torch=lambda: GPU_TORCH)
    assert facts.driver_error == said.splitlines()[0]
    facts = gather({}, ask=lambda _command: None, bus=tmp_path / "no", torch=lambda: GPU_TORCH)
    assert facts == Facts(torch=GPU_TORCH)


def test_the_torch_that_is_here_is_one_that_we_work_with() -> None:
    torch = ask_torch()
    assert packages.check_torch(Facts(torch=torch)).level is Level.OK


# --- the model


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """With the tiny model, pulled."""
    store = ModelStore(tmp_path / "models")
    directory = store.directory(MODEL)
    shutil.copytree(TINY, directory)
    files = tuple(
        PulledFile(name=path.name, size=path.stat().st_size, sha256=models.sha256_of(path))
        for path in sorted(TINY.iterdir())
    )
    record = Record(
        repository=MODEL,
        revision="a" * 40,
        licence=APACHE,
        files=files,
        tokenizer_repository="some/tokenizer",
        tokenizer_revision="b" * 40,
        pulled_at="2026-01-02T03:04:05+00:00",
    )
    store.write_record(record)
    return store


def checked(
    model: str, store: ModelStore, *, hub: Hub | None = None, deep: bool = False
) -> Finding:
    nobody = Hub("http://127.0.0.1:9")  # nobody listens at the port that discards
    return models.check_model(model, store.root, hub=hub or nobody, is_deep=deep)


def test_a_pulled_model_is_compared_with_its_digests(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(MODEL, store).cause == f"{MODEL} is here, and is what was pulled."
    weights = store.directory(MODEL) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = checked(MODEL, store)
    assert (found.level, "model.safetensors of some/tiny" in found.cause) == (Level.FAULT, True)
    assert found.cure == f"rm {weights} && moontune model pull {MODEL}"
    monkeypatch.setattr(models, "QUICK_BYTES", 1)  # as if it were large
    assert "--deep" in checked(MODEL, store).cause
    assert checked(MODEL, store, deep=True).level is Level.FAULT
    weights.write_bytes(content[:-1])
    found = checked(MODEL, store)
    assert "lacks model.safetensors or holds it in another size" in found.cause
    assert found.cure == f"moontune model pull {MODEL}"


def test_a_half_pulled_model_is_told(store: ModelStore) -> None:
    store.write_plan(Plan(repository=MODEL, revision="a" * 40, is_fp8=False))
    found = checked(MODEL, store)
    assert "has not finished" in found.cause
    assert (found.level, found.cure) == (Level.FAULT, f"moontune model pull {MODEL}")


def test_a_model_that_is_not_here_is_looked_for(store: ModelStore) -> None:
    preview, moondream2 = "moondream/moondream3-preview", "vikhyatk/moondream2"
    config = {"config.json": b'{"model_type": "moondream3"}'}
    revision = next(m.revision for m in KNOWN_MODELS if m.repository == moondream2)
    assert revision is not None
    with run_hub(
        {
            preview: Repository(files=config, commit="a" * 40, is_gated=True),
            moondream2: Repository(files=config, commit=revision),
        }
    ) as near:
        hub = Hub(near.url)
        gated = checked(preview, store, hub=hub)
        assert "wants its terms accepted" in gated.cause
        assert "HF_TOKEN" in gated.cause
        assert gated.cure == f"do so, then: moontune model pull {preview}"
        absent = checked(moondream2, store, hub=hub)
        assert "is not on this machine" in absent.cause
        assert absent.cure == f"moontune model pull {moondream2}"
        misspelt = checked("moondream/moondream3-previw", store, hub=hub)
        assert "The hub shows no model moondream/moondream3-previw" in misspelt.cause
        assert misspelt.cure == f"moontune model pull {preview}"
        assert near.names_asked() == ["config.json"]  # nothing large is fetched
    gone = checked(moondream2, store)
    assert "could not be fetched from http://127.0.0.1:9" in gone.cause
    nothing = checked("tyni", store)
    assert nothing.cure == "moontune serve --model tiny"
    assert {f.level for f in (gated, absent, misspelt, gone, nothing)} == {Level.FAULT}


def test_a_model_without_its_tokenizer_is_told(store: ModelStore) -> None:
    shutil.copytree(TINY, store.root / "local")
    (store.root / "local" / "tokenizer.json").unlink()
    found = checked(str(store.root / "local"), store)
    assert (found.level, "tokenizer" in found.cause) == (Level.FAULT, True)


def test_memory_of_the_machine_counts_where_there_is_no_gpu(tmp_path: Path) -> None:
    size = models.size_of(str(TINY), tmp_path)
    assert size is not None
    facts = Facts(torch=Torch(version="2.13.0+cpu"))

    def told(dtype: str, available: int, ours: Sequence[int] = ()) -> Finding:
        host = {"available": available, "total": 64 * GIB}
        return models.check_memory(
            facts, size, device="auto", dtype=dtype, ours=frozenset(ours), host=host
        )

    half = serving_bytes(size.config, size.count, Storage(dtype=models.DTYPES["bfloat16"]))
    assert told("auto", 2 * half).level is Level.OK
    found = told("auto", half)
    assert (found.level, "moontune serve --dtype bfloat16" in found.cure) == (Level.FAULT, True)
    assert "use a machine with more" in told("bfloat16", half - 1).cure
    assert told("auto", half, ours=[1]).level is Level.OK


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 500 kB\n")
    assert models.host_memory(tmp_path, tmp_path) == {"total": 1024_000, "available": 512_000}
    (tmp_path / "memory.max").write_text("max\n")
    assert models.host_memory(tmp_path, tmp_path)["available"] == 512_000
    (tmp_path / "memory.max").write_text("1024\n")
    assert models.host_memory(tmp_path, tmp_path) == {"total": 1024, "available": 1024}


def test_a_large_known_model_is_sized_before_it_is_pulled(tmp_path: Path) -> None:
    size = models.size_of("vikhyatk/moondream2", tmp_path)
    assert size is not None
    facts = Facts(
        torch=dataclasses.replace(GPU_TORCH), gpus=(dataclasses.replace(GPU, total_bytes=GIB),)
    )
    found = models.check_memory(facts, size, device="cuda", dtype="auto", ours=frozenset(), host={})
    assert (found.level, "in bfloat16" in found.cause) == (Level.FAULT, True)


def test_it_runs_without_torch_and_without_the_services_packages() -> None:
    """As a process, with a `trainer` extra that is not there."""
    absent = ("torch", "transformers", "peft", "fastapi", "pydantic", "sqlalchemy", "typer")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "from trainer.__main__ import main; sys.exit(main())"
    )
    words = ["doctor", "--json", "--model", str(TINY), "--name", "tiny"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    found = {f["check"]: f for f in json.loads(ended.stdout)["findings"]}
    assert found["packages"]["cause"] == "torch, transformers, peft cannot be found."
    assert found["torch"]["level"] == "fault"
    assert "model" not in found

"""Loading holds the model and one tensor in host memory, measured; anonymous resident memory.

Pages of a mapped file are not counted: the kernel takes them back when it wants.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.reference.model.published_layouts import older_names
from tests.reference.model.tiny_moondream import tiny_config
from trainer.model.checkpoint import CONFIG_FILE, save_model
from trainer.model.moondream import Moondream

ROOT = Path(__file__).parents[3]
LAYOUTS = ("safetensors", "pt", "fp8")
DTYPES = ("bfloat16", "float32")
SLACK_BYTES = 12 << 20  # buffers of the allocator, and of whoever measures

WIDE = {
    "dim": 512,
    "ff_dim": 2048,
    "n_heads": 8,
    "vocab_size": 51200,
    "moe": {"num_experts": 32, "start_layer": 1, "experts_per_token": 8, "expert_inner_dim": 512},
}

MEASURE = """
import json, os, sys, threading, time
import torch
from trainer.model.checkpoint import inspect_checkpoint, load_checkpoint

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])

def measure(directory, dtype):
    torch.set_num_threads(1)
    torch.ones(256, 256) @ torch.ones(256, 256)
    checkpoint = inspect_checkpoint(directory)
    before, highest, running = anonymous_bytes(), 0, True

    def look():
        nonlocal highest
        highest = max(highest, anonymous_bytes())

    def watch():
        while running:
            look()
            time.sleep(0.0005)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    model = load_checkpoint(
        checkpoint, dtype=getattr(torch, dtype), on_progress=lambda done, total: look()
    )
    running = False
    watching.join()
    sizes = [p.numel() * p.element_size() for p in model.parameters()]
    return {"peak": highest - before, "model": sum(sizes), "largest": max(sizes)}

for directory in sys.argv[2:]:
    if os.fork() == 0:  # each in a process of its own, which has imported torch already
        print(json.dumps(measure(directory, sys.argv[1])))
        sys.exit()
    _, status = os.wait()
    assert status == 0, directory
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model of 90 million parameters in several layouts."""
    folder = tmp_path_factory.mktemp("wide")
    config = tiny_config(**WIDE)
    model = Moondream.from_scratch(config, seed=0).to(torch.bfloat16)
    save_model(model, folder / "safetensors")
    text = (folder / "safetensors" / CONFIG_FILE).read_text()
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for layout in ("pt", "fp8"):
        (folder / layout).mkdir()
        (folder / layout / CONFIG_FILE).write_text(text)
    torch.save(state, folder / "pt" / "model.pt")
    save_file(older_names(state, fp8=True), folder / "fp8" / "model.safetensors")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def measured(written: dict[str, Path]) -> dict[tuple[str, str], dict[str, int]]:
    """By dtype and layout: the highest anonymous memory while it was loaded, in bytes."""
    found = {}
    for dtype in DTYPES:
        ended = subprocess.run(
            [sys.executable, "-c", MEASURE, dtype, *(written[layout] for layout in LAYOUTS)],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stderr
        for layout, line in zip(LAYOUTS, ended.stdout.splitlines(), strict=True):
            found[dtype, layout] = json.loads(line)
    return found


@pytest.mark.xdist_group("model-memory")  # one process writes the layouts
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is resident")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_holds_the_model_and_one_tensor(
    measured: dict[tuple[str, str], dict[str, int]], layout: str, dtype: str
) -> None:
    of = measured[dtype, layout]
    assert of["model"] > 100 << 20
    assert of["peak"] >= 0.95 * of["model"], "what is measured is not the loading"
    assert of["peak"] <= of["model"] + of["largest"] + SLACK_BYTES

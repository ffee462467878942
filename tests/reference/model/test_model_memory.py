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
SLACK_BYTES = 12 << 20  # buffers of the allocator, and of whoever measures

WIDE = {
    "dim": 512,
    "ff_dim": 2048,
    "n_heads": 8,
    "vocab_size": 51200,
    "moe": {"num_experts": 32, "start_layer": 1, "experts_per_token": 8, "expert_inner_dim": 512},
}

MEASURE = """
import json, sys, threading, time
import torch
from trainer.model.checkpoint import inspect_checkpoint, load_checkpoint

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])

torch.set_num_threads(1)
torch.ones(256, 256) @ torch.ones(256, 256)
checkpoint = inspect_checkpoint(sys.argv[1])
dtype = getattr(torch, sys.argv[2])
before, highest, running = anonymous_bytes(), 0, True

def watch():
    global highest
    while running:
        highest = max(highest, anonymous_bytes())
        time.sleep(0.0005)

watching = threading.Thread(target=watch)
watching.start()
def on_progress(done, total):
    global highest
    highest = max(highest, anonymous_bytes())
model = load_checkpoint(checkpoint, dtype=dtype, on_progress=on_progress)
running = False
watching.join()
sizes = [p.numel() * p.element_size() for p in model.parameters()]
print(json.dumps({"peak": highest - before, "model": sum(sizes), "largest": max(sizes)}))
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


@pytest.mark.xdist_group("model-memory")  # one process writes the layouts
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is resident")
@pytest.mark.parametrize("layout", ["safetensors", "pt", "fp8"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_loading_holds_the_model_and_one_tensor(
    written: dict[str, Path], layout: str, dtype: str
) -> None:
    measured = json.loads(
        subprocess.run(
            [sys.executable, "-c", MEASURE, written[layout], dtype],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    )
    assert measured["model"] > 100 << 20
    assert measured["peak"] >= 0.95 * measured["model"], "what is measured is not the loading"
    assert measured["peak"] <= measured["model"] + measured["largest"] + SLACK_BYTES

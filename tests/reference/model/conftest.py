"""The oracle: two tiny checkpoints, and what an independent implementation computes.

`MOONTUNE_TEST_DEVICE=cuda` asks it of a GPU; the numbers themselves were made on a CPU.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from trainer.model.checkpoint import load_model
from trainer.model.crops import make_crops
from trainer.model.moondream import Moondream
from trainer.model.tokenizer import Tokenizer

ORACLE = Path(__file__).parent.parent / "oracle"
FAMILIES = ("moondream2", "moondream3")
DEVICE = os.environ.get("MOONTUNE_TEST_DEVICE", "cpu")


class FileAdapter:
    """The adapter of an exchange file, read without the code that trains adapters."""

    def __init__(self, tensors: dict[str, torch.Tensor], first_expert_layer: int) -> None:
        self.layers: dict[int, SimpleNamespace] = {}
        for name, tensor in tensors.items():
            _, kind, index, factor = name.split(".")
            layer = int(index) + (first_expert_layer if kind == "moe" else 0)
            setattr(self.layers.setdefault(layer, SimpleNamespace(rows=None)), factor, tensor)

    def layer(self, index: int) -> SimpleNamespace | None:
        return self.layers.get(index)


@dataclass(frozen=True)
class Oracle:
    directory: Path
    model: Moondream
    tokenizer: Tokenizer
    cases: dict[str, dict]
    expected: dict[str, torch.Tensor]
    adapter: FileAdapter
    image_names: list[str]

    def crops(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        path = self.directory / "images" / self.image_names[index]
        return make_crops(np.asarray(Image.open(path).convert("RGB")), self.model.config.vision)

    def features(self, image_path: str) -> torch.Tensor:
        """[P, D] image tokens; each picture goes through the tower once per test session."""
        return _features(self.directory.name, self.image_names.index(Path(image_path).name))


@cache
def oracle_of(family: str) -> Oracle:
    directory = ORACLE / family
    model = load_model(directory, device=DEVICE)
    moe = model.config.text.moe
    return Oracle(
        directory=directory,
        model=model,
        tokenizer=Tokenizer.from_directory(directory),
        cases={
            case["id"]: case for case in json.loads((directory / "cases.json").read_text())["cases"]
        },
        expected=load_file(directory / "expected.safetensors", device=DEVICE),
        adapter=FileAdapter(
            load_file(directory / "adapter.safetensors", device=DEVICE),
            0 if moe is None else moe.start_layer,
        ),
        image_names=sorted(path.name for path in (directory / "images").iterdir()),
    )


@cache
def _features(family: str, image: int) -> torch.Tensor:
    oracle = oracle_of(family)
    with torch.no_grad():
        return oracle.model.vision.encode_images([oracle.crops(image)])[0]


@pytest.fixture
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return oracle_of(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `oracle` runs for both families; with `case_id`, once per case of both."""
    if "case_id" in metafunc.fixturenames:
        ids = [
            (family, case["id"])
            for family in FAMILIES
            for case in json.loads((ORACLE / family / "cases.json").read_text())["cases"]
        ]
        metafunc.parametrize(
            ("oracle", "case_id"), ids, indirect=["oracle"], ids=["-".join(pair) for pair in ids]
        )
    elif "oracle" in metafunc.fixturenames:
        metafunc.parametrize("oracle", FAMILIES, indirect=True)

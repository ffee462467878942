"""What it costs that a step is on the disk before it is answered.

    python -m benchmarks.durability [--out benchmarks/results/durability-cpu.json]

    full    the state of an adapter of Moondream 3 at rank 32 (random float32 tensors: weights and
            two moments): `trainer.storage.write_all` against a plain write and fsync of the same
            bytes, one file after the other
    tiny    a step of the tiny model, with its files and the two commits of its row, against the
            same step that keeps everything in memory

Both sides run in turn, round by round, in one process; the ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import hashlib
import json
import os
import platform
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sqlalchemy import text
from sqlalchemy.orm import Session
from torch import Tensor

from benchmarks.gpu.places import tasks, tiny_model
from contract.engine import AdapterRef, FileRef, MakeRollouts, StepTrained, TrainStep
from contract.groups import RLGroup, TrainOptions
from contract.skills import ReturnedRollout, Settings
from server.db.connection import Database
from trainer import engine as engine_module
from trainer.adapters.lora import adapter_shapes
from trainer.engine import TrainerEngine
from trainer.model.published_config import MoondreamConfig
from trainer.storage import write_all

FACTS = {"finetune_id": "F" * 26, "rank": "32"}
NUM_GROUPS, NUM_ROLLOUTS, MAX_TOKENS = 4, 8, 24


def full_state(rank: int) -> dict[str, dict[str, Tensor]]:
    """Weights and moments of an adapter in the geometry of Moondream 3."""
    config = MoondreamConfig.from_published({"model_type": "moondream3", "config": {}}).text
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator)
        for name, shape in adapter_shapes(config, rank).items()
    }
    moments = {
        f"{kind}.{name}": tensor.clone()
        for kind in ("mean", "square")
        for name, tensor in weights.items()
    }
    return {"weights": weights, "optimizer": {**moments, "num_updates": torch.tensor(1)}}


def write_plainly(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write and flush, one after the other; no hash, no rename, no directory."""
    for name, data in contents.items():
        with (folder / name).open("wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())


def measure_full(folder: Path, *, rank: int, rounds: int) -> dict[str, Any]:
    state = full_state(rank)
    contents = {
        name: safetensors.torch.save(tensors, {"moontune": json.dumps(FACTS, sort_keys=True)})
        for name, tensors in state.items()
    }

    def ours(place: Path) -> None:
        files = write_all({place / name: tensors for name, tensors in state.items()}, FACTS)
        assert [file.num_bytes for file in files] == [len(data) for data in contents.values()]

    def hashed(_place: Path) -> None:
        for data in contents.values():
            hashlib.sha256(data).hexdigest()

    sides: dict[str, Callable[[Path], None]] = {
        "plain": lambda place: write_plainly(place, contents),
        "ours": ours,
        "hash_alone": hashed,
    }
    seconds = in_turn(folder, sides, rounds)
    return {
        "num_bytes": sum(map(len, contents.values())),
        **summary(seconds, "ours", "plain"),
        "limit": 1.5,
    }


def in_turn(
    folder: Path, sides: Mapping[str, Callable[[Path], None]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each side, round by round, in an order that turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            place = Path(tempfile.mkdtemp(dir=folder))
            os.sync()
            gc.collect()
            started = time.perf_counter()
            sides[name](place)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
            shutil.rmtree(place)
    return seconds


def summary(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
    return {
        "rounds": len(ratios),
        "seconds_median": {name: statistics.median(s) for name, s in seconds.items()},
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def measure_tiny(folder: Path, *, rounds: int) -> dict[str, Any]:
    engine = TrainerEngine(tiny_model(("cpu", "float32")))
    adapter = AdapterRef(finetune_id="F" * 26, step=0, rank=8, seed=1, weights=None)
    images, groups = [], []
    for number, (image, request, _) in enumerate(tasks()[: 3 * NUM_GROUPS : 3]):
        made = engine.make_rollouts(
            MakeRollouts(
                adapter=adapter,
                request=request,
                settings=Settings(temperature=1.0, max_tokens=MAX_TOKENS),
                num_rollouts=NUM_ROLLOUTS,
                seed=number,
            ),
            [image],
        )
        rollouts = tuple(ReturnedRollout(**vars(rollout)) for rollout in made.rollouts)
        rewards = tuple(float(i % 2) for i in range(NUM_ROLLOUTS))
        placed = type(request)(**{**vars(request), "image": len(images)})
        groups.append(RLGroup(request=placed, rollouts=rollouts, rewards=rewards))
        images.append(image)
    database = Database(f"sqlite:///{folder / 'rows.db'}")
    database.write_blocking(_make_table)

    def step(place: Path) -> StepTrained:
        return engine.train_step(
            TrainStep(
                adapter=adapter,
                optimizer=None,
                groups=tuple(groups),
                lr=1e-4,
                options=TrainOptions(),
                weights_path=str(place / "weights"),
                optimizer_path=str(place / "optimizer"),
            ),
            images,
        )

    sizes: list[int] = []

    def ours(place: Path) -> None:
        database.write_blocking(_row, "running", "")
        trained = step(place)
        assert trained.weights is not None
        assert trained.optimizer is not None
        sizes.append(trained.weights.num_bytes + trained.optimizer.num_bytes)
        database.write_blocking(_row, "done", "x" * 2000)

    def in_memory(place: Path) -> None:
        engine_module.write_all = _keep_in_memory
        try:
            step(place)
        finally:
            engine_module.write_all = write_all

    seconds = in_turn(folder, {"in_memory": in_memory, "durable": ours}, rounds)
    database.close()
    return {
        "groups": NUM_GROUPS,
        "rollouts": NUM_GROUPS * NUM_ROLLOUTS,
        "num_bytes": sizes[-1],
        **summary(seconds, "durable", "in_memory"),
        "limit": 1.25,
    }


def _keep_in_memory(files: Mapping[Path, Any], _facts: Any) -> list[FileRef]:
    return [FileRef(path=str(p), digest=secrets.token_hex(32), num_bytes=0) for p in files]


def _make_table(session: Session) -> None:
    session.execute(text("CREATE TABLE step_rows (id INTEGER PRIMARY KEY, state, response)"))


def _row(session: Session, state: str, response: str) -> None:
    session.execute(
        text("INSERT INTO step_rows (state, response) VALUES (:state, :response)"),
        {"state": state, "response": response},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; absent: here")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny-rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder or Path.cwd()) as name:
        folder = Path(name)
        found: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "device": f"{platform.machine()} cpu, {os.cpu_count()} cores",
            "load_average": os.getloadavg()[0],
            "torch": torch.__version__,
            "full": measure_full(folder, rank=arguments.rank, rounds=arguments.rounds),
        }
        print(json.dumps(found["full"]), flush=True)
        found["tiny"] = measure_tiny(folder, rounds=arguments.tiny_rounds)
        print(json.dumps(found["tiny"]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

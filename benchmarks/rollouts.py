"""What 16 answers to one picture and prompt cost, against the usual way to get them.

    python -m benchmarks.rollouts [--quick] [--runs 5]

Ours: the dense family, prefill once, decode from the shared prefix. The comparator is what a user
would call instead: transformers `generate(num_return_sequences=16)` with a PEFT adapter on a stock
vision-language model (Qwen2.5-VL) of the same text geometry. Pictures enter both sides as
embeddings, so no vision tower runs. One torch thread, float32, CPU seconds; runs alternate between
the sides, medians count. Memory is measured in a process of its own per side: the most resident
anonymous memory during one call, less that after loading.

`benchmarks.group_size` and `benchmarks.rollouts_http` run after these, each with its own lines.

Prints JSON lines; `ratio` is the comparator's cost over ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.expert_lora import ExpertLayer
from benchmarks.rollout_sides import NUM_FINETUNES, Ours, Theirs


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if arguments.memory_of:
        print(json.dumps({"mib": _memory_of(Ours if arguments.memory_of == "ours" else Theirs)}))
        return
    num_runs = 3 if arguments.quick else arguments.runs
    ours, theirs = Ours(), Theirs()
    facts = {"ours": ours.check(), "theirs": theirs.check()}
    _tell_generate(ours, theirs, num_runs, facts)
    _tell_many_adapters(ours, theirs, num_runs)
    _tell_expert_lora(num_runs)
    del ours, theirs
    for module in ("group_size", "rollouts_http"):  # in processes of their own: less in the way
        command = [sys.executable, "-m", f"benchmarks.{module}", "--runs", str(num_runs)]
        subprocess.run(command, check=True)


def _tell_generate(ours: Ours, theirs: Theirs, num_runs: int, facts: dict[str, Any]) -> None:
    seconds = _alternating({"ours": ours.answers, "theirs": theirs.answers}, num_runs)
    memory = {side: _memory_in_a_process(side) for side in ("ours", "theirs")}
    _tell(
        "rollouts.vs_generate",
        seconds["theirs"],
        seconds["ours"],
        phases=ours.phases(),
        memory_mib=memory,
        memory_ratio=memory["theirs"] / memory["ours"],
        comparator=Theirs.call,
        versions={name: version(name) for name in ("torch", "transformers", "peft")},
        checked=facts,
    )


def _tell_many_adapters(ours: Ours, theirs: Theirs, num_runs: int) -> None:
    """Decoding alone: of the comparator, the call less the same call for one token."""
    prefixes, base = ours.prefixes(ours.adapters), [None] * NUM_FINETUNES
    base_prefixes = ours.prefixes(base)
    together = ours.decode(ours.adapters, prefixes)
    for adapter, prefix, seed in zip(ours.adapters, prefixes, range(NUM_FINETUNES), strict=True):
        (alone,) = ours.decode([adapter], [prefix]) if seed == 0 else (together[seed],)
        same = [[a.token for a in t.actions] for t in alone]
        assert same == [[a.token for a in t.actions] for t in together[seed]], "mates matter"
    seconds = _alternating(
        {
            "ours": lambda: ours.decode(ours.adapters, prefixes),
            "base": lambda: ours.decode(base, base_prefixes),
            "whole": lambda: ours.decode(ours.adapters, ours.prefixes(ours.adapters)),
            "theirs": theirs.one_finetune_after_the_other,
            "theirs, one token": lambda: theirs.one_finetune_after_the_other(1),
        },
        num_runs,
    )
    decoding = [
        whole - first
        for whole, first in zip(seconds["theirs"], seconds["theirs, one token"], strict=True)
    ]
    _tell(
        "rollouts.many_adapters_vs_one_by_one",
        decoding,
        seconds["ours"],
        whole_call_ratio=statistics.median(seconds["theirs"]) / statistics.median(seconds["whole"]),
    )
    _tell("rollouts.base_only_vs_many_adapters", seconds["base"], seconds["ours"])


def _tell_expert_lora(num_runs: int) -> None:
    layer = ExpertLayer()
    checked = layer.check()
    repeated = {
        "ours": lambda: [layer.ours() for _ in range(5)],
        "theirs": lambda: [layer.theirs() for _ in range(5)],
    }
    seconds = _alternating(repeated, num_runs)
    _tell("rollouts.expert_lora_vs_peft", seconds["theirs"], seconds["ours"], difference=checked)


def _alternating(works: dict[str, Callable[[], Any]], num_runs: int) -> dict[str, list[float]]:
    """CPU seconds of each, one run of each after the other; one round before warms all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(num_runs + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if run > 0:
                seconds[name].append(time.process_time() - started)
    return seconds


def _memory_in_a_process(side: str) -> float:
    command = [sys.executable, "-m", "benchmarks.rollouts", "--memory-of", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["mib"]


def _memory_of(side: type[Ours] | type[Theirs]) -> float:
    """MiB of anonymous memory that one call takes at most, beyond what the model takes."""
    subject = side()
    before, highest, running = _resident_mib(), 0.0, True

    def watch() -> None:
        nonlocal highest
        while running:
            highest = max(highest, _resident_mib())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    subject.answers()
    running = False
    watching.join()
    return highest - before


def _resident_mib() -> float:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    raise OSError("this system does not say what is resident")


def _tell(name: str, theirs: list[float], ours: list[float], **more: Any) -> None:
    """One comparison; `spread` is the lowest and the highest ratio of a round."""
    rounds = [their / our for their, our in zip(theirs, ours, strict=True)]
    found = {
        "name": name,
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "runs": len(ours),
        "spread": [min(rounds), max(rounds)],
        "cpu_seconds": {"ours": statistics.median(ours), "theirs": statistics.median(theirs)},
        **more,
    }
    print(json.dumps(found), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

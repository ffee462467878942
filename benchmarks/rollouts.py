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
import warnings
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.expert_lora import ExpertLayer
from benchmarks.rollout_sides import NUM_FINETUNES, Ours, Theirs
from benchmarks.side_by_side import alternating, clocked, in_a_process, most_memory, tell


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if arguments.memory_of:
        subject = Ours() if arguments.memory_of == "ours" else Theirs()
        print(json.dumps({"mib": most_memory(subject.answers)}))
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
    sides = {"ours": clocked(ours.answers), "theirs": clocked(theirs.answers)}
    seconds = alternating(sides, num_runs)
    memory = {
        side: in_a_process("benchmarks.rollouts", "--memory-of", side)["mib"]
        for side in ("ours", "theirs")
    }
    tell(
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
    seconds = alternating(
        {
            "ours": clocked(lambda: ours.decode(ours.adapters, prefixes)),
            "base": clocked(lambda: ours.decode(base, base_prefixes)),
            "whole": clocked(lambda: ours.decode(ours.adapters, ours.prefixes(ours.adapters))),
            "theirs": clocked(theirs.one_finetune_after_the_other),
            "theirs, one token": clocked(lambda: theirs.one_finetune_after_the_other(1)),
        },
        num_runs,
    )
    decoding = [
        whole - first
        for whole, first in zip(seconds["theirs"], seconds["theirs, one token"], strict=True)
    ]
    tell(
        "rollouts.many_adapters_vs_one_by_one",
        decoding,
        seconds["ours"],
        whole_call_ratio=statistics.median(seconds["theirs"]) / statistics.median(seconds["whole"]),
    )
    tell("rollouts.base_only_vs_many_adapters", seconds["base"], seconds["ours"])


def _tell_expert_lora(num_runs: int) -> None:
    layer = ExpertLayer()
    checked = layer.check()
    repeated = {
        "ours": clocked(lambda: [layer.ours() for _ in range(5)]),
        "theirs": clocked(lambda: [layer.theirs() for _ in range(5)]),
    }
    seconds = alternating(repeated, num_runs)
    tell("rollouts.expert_lora_vs_peft", seconds["theirs"], seconds["ours"], difference=checked)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

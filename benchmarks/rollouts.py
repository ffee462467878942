"""What 16 answers to one picture and prompt cost, against the usual way to get them.

    python -m benchmarks.rollouts [--quick] [--runs 5]

Ours: the dense family, prefill once, decode from the shared prefix. The comparator is what a user
would call instead: transformers `generate(num_return_sequences=16)` with a PEFT adapter on a stock
vision-language model (Qwen2.5-VL) of the same text geometry. Pictures enter both sides as
embeddings, so no vision tower runs. One torch thread, float32, CPU seconds; runs alternate between
the sides, medians count. Memory is measured in a process of its own per side: the most resident
anonymous memory during one call, less that after loading.

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
from torch import Tensor

from contract.skills import Settings
from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch
from trainer.decoder import DecodeRequest
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.prefill import Prefix, prefill
from trainer.sampling import sample
from trainer.scoring import score
from trainer.sequence import Mask, Trace, text_elements

HIDDEN, LAYERS, HEADS, VOCABULARY = 256, 8, 4, 2048
INNER = 4 * HIDDEN
THEIR_INNER = 2 * INNER // 3
"""Their MLP has three matrices, ours two: so both have the same number of weights."""
NUM_IMAGE_TOKENS, NUM_PROMPT_TOKENS = 729, 12
PREFIX = 1 + NUM_IMAGE_TOKENS + NUM_PROMPT_TOKENS
RANK, NUM_ROLLOUTS, NUM_TOKENS = 16, 16, 24
WARM = Settings(temperature=1.0, max_tokens=NUM_TOKENS)
GREEDY = Settings(temperature=0.0, max_tokens=NUM_TOKENS)


class Endless:
    """Text that never ends by itself and holds no coordinates, so that every answer is as long."""

    mask_of_all = Mask(suppressed=(0, 5, 6))

    def mask(self) -> Mask:
        return self.mask_of_all

    def push(self, token: int) -> None:
        """Nothing follows from a draw."""

    def is_complete(self) -> bool:
        return True

    def most_actions(self, settings: Settings, num_room: int) -> int:
        return min(settings.max_tokens, num_room)


class Ours:
    """The dense family of `trainer.model`, one adapter."""

    def __init__(self) -> None:
        published = {
            "model_type": "moondream1",
            "config": {
                "text": {
                    "dim": HIDDEN, "ff_dim": INNER, "n_layers": LAYERS, "n_heads": HEADS,
                    "vocab_size": VOCABULARY, "max_context": 1024,
                },
                "vision": {
                    "enc_dim": 16, "enc_n_layers": 1, "enc_ff_dim": 16, "enc_n_heads": 1,
                    "proj_inner_dim": 16,
                },
                "region": {"inner_dim": 16},
                "tokenizer": {"templates": _templates()},
            },
        }  # fmt: skip
        config = MoondreamConfig.from_published(published)
        self.model = Moondream.from_scratch(config, seed=0).eval().requires_grad_(False)
        self.adapter = Adapter.fresh(config.text, RANK, seed=1)
        generator = torch.Generator().manual_seed(2)
        for name, tensor in self.adapter.tensors.items():
            if name.endswith("_b"):
                tensor.normal_(0.0, 0.02, generator=generator)
        self.features = {"x": torch.randn(NUM_IMAGE_TOKENS, HIDDEN, generator=generator)}
        self.row = Row(image="x", prompt=text_elements(range(100, 100 + NUM_PROMPT_TOKENS)))

    def answers(self, settings: Settings = WARM, seed: int = 7) -> tuple[Trace, ...]:
        prefix = prefill(self.model, self.adapter, self.row, self.features)
        return sample(self.model, self.request(prefix, settings, seed))

    def request(self, prefix: Prefix, settings: Settings = WARM, seed: int = 7) -> DecodeRequest:
        return DecodeRequest(
            prefix=prefix,
            adapter=self.adapter,
            new_grammar=Endless,
            settings=settings,
            num_rollouts=NUM_ROLLOUTS,
            seed=seed,
        )

    def phases(self) -> dict[str, float]:
        """CPU seconds of prefill and decode."""
        started = time.process_time()
        prefix = prefill(self.model, self.adapter, self.row, self.features)
        prefilled = time.process_time()
        sample(self.model, self.request(prefix))
        return {"prefill": prefilled - started, "decode": time.process_time() - prefilled}

    @torch.no_grad()
    def check(self) -> dict[str, Any]:
        """What must be equal before anything is timed: lengths, and log-probabilities."""
        traces = self.answers()
        worst = 0.0
        for trace in traces:
            row = Row(image="x", prompt=self.row.prompt, actions=trace.actions)
            scores = score(self.model, make_batch(self.model, [row], self.features), self.adapter)
            drawn = torch.tensor([action.token_logprob for action in trace.actions])
            worst = max(worst, float((scores.token_A - drawn).abs().max()))
        assert worst < 1e-5, f"log-probabilities differ from the trainer's by {worst}"
        lengths = {len(trace.actions) for trace in traces}
        assert lengths == {NUM_TOKENS}, lengths
        assert self.row.num_positions(NUM_IMAGE_TOKENS) == PREFIX
        return {"logprob_difference": worst, "weights": _num_text_weights(self.model.text)}


class Theirs:
    """Qwen2.5-VL with a PEFT adapter, called as its users call it."""

    call = (
        f"model.generate(inputs_embeds=..., num_return_sequences={NUM_ROLLOUTS}, do_sample=True,"
        f" temperature=1.0, min_new_tokens={NUM_TOKENS}, max_new_tokens={NUM_TOKENS})"
    )

    def __init__(self) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        head = HIDDEN // HEADS
        text = {
            "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": THEIR_INNER,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS, "max_position_embeddings": 4096,
            "tie_word_embeddings": False, "use_sliding_window": False,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0,
                "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
            },
        }  # fmt: skip
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1,
                  "out_hidden_size": HIDDEN, "fullatt_block_indexes": [0]}  # fmt: skip
        torch.manual_seed(0)
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
        model = Qwen2_5_VLForConditionalGeneration(config).float()
        lora = LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=r".*language_model.*\.(gate_proj|up_proj|down_proj)",
        )
        self.model = get_peft_model(model, lora).eval().requires_grad_(False)
        for name, tensor in self.model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0.0, 0.02)
        self.embeds = torch.randn(1, PREFIX, HIDDEN)
        self.mask = torch.ones(1, PREFIX, dtype=torch.long)

    @torch.no_grad()
    def answers(self) -> Tensor:
        return self.model.generate(
            inputs_embeds=self.embeds,
            attention_mask=self.mask,
            num_return_sequences=NUM_ROLLOUTS,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            min_new_tokens=NUM_TOKENS,
            max_new_tokens=NUM_TOKENS,
        )

    def check(self) -> dict[str, Any]:
        tokens = self.answers()
        assert tuple(tokens.shape) == (NUM_ROLLOUTS, NUM_TOKENS), tuple(tokens.shape)
        base = self.model.get_base_model()
        return {"weights": _num_text_weights(base.model.language_model, "lora_")}


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
    mine, others = _alternating(ours.answers, theirs.answers, num_runs)
    memory = {side: _memory_in_a_process(side) for side in ("ours", "theirs")}
    _tell(
        name="rollouts.vs_generate",
        ratio=statistics.median(others) / statistics.median(mine),
        runs=num_runs,
        spread=[min(others) / max(mine), max(others) / min(mine)],
        cpu_seconds={"ours": statistics.median(mine), "theirs": statistics.median(others)},
        phases=ours.phases(),
        memory_mib=memory,
        memory_ratio=memory["theirs"] / memory["ours"],
        comparator=Theirs.call,
        versions={name: version(name) for name in ("torch", "transformers", "peft")},
        checked=facts,
    )


def _alternating(
    ours: Callable[[], Any], theirs: Callable[[], Any], num_runs: int
) -> tuple[list[float], list[float]]:
    """CPU seconds of each side, one run of each after the other; the checks have warmed both."""
    mine, others = [], []
    for _ in range(num_runs):
        for work, into in ((ours, mine), (theirs, others)):
            started = time.process_time()
            work()
            into.append(time.process_time() - started)
    return mine, others


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


def _num_text_weights(module: torch.nn.Module, left_out: str = "\0") -> int:
    return sum(p.numel() for name, p in module.named_parameters() if left_out not in name)


def _templates() -> dict[str, Any]:
    part = {"prefix": [1, 20, 2], "suffix": [3]}
    return {
        "caption": {name: [1, 21, 2, 22, 3] for name in ("short", "normal", "long")},
        "query": {"prefix": [1, 23, 2], "answer_prefix": [3, 3], "reasoning_prefix": [3, 4]},
        "detect": part,
        "point": part,
        "segment": None,
    }


def _tell(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The two sides of `benchmarks.rollouts`: the dense family of ours, and Qwen2.5-VL with PEFT.

Same text geometry, same ranks, same prefix; pictures enter both as embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contract.skills import Settings
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.decoder import Decoder, DecodeRequest
from trainer.model.kv_blocks import BlockPool, num_blocks_for
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.packing import pack
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
NUM_FINETUNES = 4
PER_FINETUNE = NUM_ROLLOUTS // NUM_FINETUNES


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
        generator = torch.Generator().manual_seed(2)
        self.adapters = [
            Adapter.fresh(config.text, RANK, seed=seed) for seed in range(NUM_FINETUNES)
        ]
        for adapter in self.adapters:
            for name, tensor in adapter.tensors.items():
                if name.endswith("_b"):
                    tensor.normal_(0.0, 0.02, generator=generator)
        self.adapter = self.adapters[0]
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

    def prefixes(self, adapters: Sequence[Adapter | None]) -> list[Prefix]:
        """One prefill per finetune."""
        return [prefill(self.model, adapter, self.row, self.features) for adapter in adapters]

    def decode(
        self, adapters: Sequence[Adapter | None], prefixes: Sequence[Prefix]
    ) -> list[tuple[Trace, ...]]:
        """Four rollouts of every finetune, all in the same ticks."""
        num_blocks = len(adapters) * PER_FINETUNE * num_blocks_for(NUM_TOKENS)
        pool = BlockPool(self.model.config.text, num_blocks, device="cpu", dtype=torch.float32)
        decoder = Decoder(self.model, pool)
        tickets = [
            decoder.add(
                DecodeRequest(
                    prefix=prefix,
                    adapter=adapter,
                    new_grammar=Endless,
                    settings=WARM,
                    num_rollouts=PER_FINETUNE,
                    seed=seed,
                )
            )
            for seed, (adapter, prefix) in enumerate(zip(adapters, prefixes, strict=True))
        ]
        ended: dict[int, tuple[Trace, ...]] = {}
        while not decoder.is_idle:
            ended |= decoder.tick()
        return [ended[ticket] for ticket in tickets]

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
            scores = score(self.model, pack(self.model, [row], self.features), self.adapter)
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
        self.model = get_peft_model(model, lora)
        for number in range(1, NUM_FINETUNES):
            self.model.add_adapter(f"finetune{number}", lora)
        self.names = ["default", *(f"finetune{n}" for n in range(1, NUM_FINETUNES))]
        self.model.set_adapter("default")
        self.model.eval().requires_grad_(False)
        for name, tensor in self.model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(0.0, 0.02)
        self.embeds = torch.randn(1, PREFIX, HIDDEN)
        self.mask = torch.ones(1, PREFIX, dtype=torch.long)

    @torch.no_grad()
    def answers(self, num_rollouts: int = NUM_ROLLOUTS, num_tokens: int = NUM_TOKENS) -> Tensor:
        return self.model.generate(
            inputs_embeds=self.embeds,
            attention_mask=self.mask,
            num_return_sequences=num_rollouts,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
        )

    def one_finetune_after_the_other(self, num_tokens: int = NUM_TOKENS) -> None:
        """Four rollouts of every finetune, as PEFT serves several adapters."""
        for name in self.names:
            self.model.set_adapter(name)
            self.answers(PER_FINETUNE, num_tokens)
        self.model.set_adapter("default")

    def check(self) -> dict[str, Any]:
        tokens = self.answers()
        assert tuple(tokens.shape) == (NUM_ROLLOUTS, NUM_TOKENS), tuple(tokens.shape)
        base = self.model.get_base_model()
        return {"weights": _num_text_weights(base.model.language_model, "lora_")}


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

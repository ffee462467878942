"""Stock transformers and PEFT: every rollout a row of its own, or prefixes shared by the package
`prefix_grouper`.

As good as one writes it by hand: the picture is encoded once, nothing is padded, attention is
torch's causal kernel, and the language head sees only the positions that answers are drawn from.
The package (arXiv 2506.05433) repeats keys and values of the prefix for each rollout. It hands
padding masks to the attention function that it is given, which here makes square ones of them.

Letters: P positions of the prefix, G rollouts, A tokens of each, D width.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from peft import get_peft_model
from prefix_grouper import PrefixGrouper
from prefix_grouper.utils.register_transformers import register_attention
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.stock_model import (
    Sizes,
    gradient_of,
    stock_inputs,
    stock_lora,
    stock_model,
    stock_processor,
    stock_tokenizer,
    wake_lora,
)
from benchmarks.train_task import Task

CLIP = 0.2


class Rows:
    """One step of the task on the stock model, 16 rows of prefix and answer."""

    def __init__(self, task: Task, sizes: Sizes | None = None):
        sizes = sizes or Sizes()
        tokenizer = stock_tokenizer()
        self.model = get_peft_model(stock_model(tokenizer, sizes), stock_lora()).train()
        wake_lora(self.model)
        self.inputs = stock_inputs(stock_processor(tokenizer, sizes), task, sizes)
        self.answers_GA = task.answers_GA
        self.advantages_G = task.advantages_G
        self.sampled_GA: Tensor | None = None
        """Log-probabilities of the policy that sampled; None: it is the one that is trained."""

    @property
    def _stock(self) -> Any:
        return self.model.get_base_model()

    def step(self, *, has_vision: bool = True) -> float:
        """The loss; its gradient is left in the adapter."""
        self.model.zero_grad(set_to_none=True)
        loss = self._loss(*(self._prefix() if has_vision else self._known_prefix))
        loss.backward()
        return float(loss)

    def gradient(self) -> dict[str, Tensor]:
        return gradient_of(self.model)

    def _loss(self, embeds_1PD: Tensor, positions_31P: Tensor) -> Tensor:
        """The clipped loss, a mean over all tokens."""
        hidden_GAD = self._hidden(embeds_1PD, positions_31P)
        logits_GAV = self._stock.lm_head(hidden_GAD).float()
        policy_GA = torch.log_softmax(logits_GAV, -1).gather(-1, self.answers_GA[..., None])[..., 0]
        sampled_GA = policy_GA.detach() if self.sampled_GA is None else self.sampled_GA
        ratio_GA = torch.exp(policy_GA - sampled_GA)
        clipped_GA = ratio_GA.clamp(1 - CLIP, 1 + CLIP)
        advantages_G1 = self.advantages_G[:, None]
        return -torch.minimum(ratio_GA * advantages_G1, clipped_GA * advantages_G1).mean()

    @cached_property
    def _known_prefix(self) -> tuple[Tensor, Tensor]:
        return self._prefix()

    @torch.no_grad()
    def _prefix(self) -> tuple[Tensor, Tensor]:
        """Embeddings and rotary positions of the prompt; the picture is encoded once."""
        model, inputs = self._stock.model, self.inputs
        embeds_1PD = model.get_input_embeddings()(inputs["input_ids"])
        if "pixel_values" not in inputs:
            length = embeds_1PD.shape[1]
            return embeds_1PD, torch.arange(length).expand(3, 1, length)
        pictures = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        is_image = inputs["input_ids"] == model.config.image_token_id
        embeds_1PD[is_image] = torch.cat(tuple(pictures.pooler_output))
        positions_31P, _ = model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        return embeds_1PD, positions_31P

    def _fed(self) -> Tensor:
        """[G, A - 1, D] what answers put behind the prompt; nothing follows the last token."""
        return self._stock.model.get_input_embeddings()(self.answers_GA[:, :-1])

    def _positions_after(self, positions_31P: Tensor, num_rollouts: int) -> Tensor:
        """[3, num_rollouts, A - 1]."""
        first = int(positions_31P.max()) + 1
        length = self.answers_GA.shape[1] - 1
        return torch.arange(first, first + length).expand(3, num_rollouts, length)

    def _hidden(self, embeds_1PD: Tensor, positions_31P: Tensor) -> Tensor:
        """[G, A, D] hidden states that the answers are drawn from."""
        num = len(self.answers_GA)
        embeds = torch.cat((embeds_1PD.expand(num, -1, -1), self._fed()), dim=1)
        positions = torch.cat(
            (positions_31P.expand(3, num, -1), self._positions_after(positions_31P, num)), dim=2
        )
        hidden = self._stock.model.language_model(
            inputs_embeds=embeds, position_ids=positions, use_cache=False
        ).last_hidden_state
        return hidden[:, embeds_1PD.shape[1] - 1 :]


class PrefixGrouped(Rows):
    """The same step with the package, as its readme has it used with transformers."""

    def __init__(self, task: Task, sizes: Sizes | None = None):
        super().__init__(task, sizes)
        register_attention()
        AttentionInterface.register("causal_without_padding", _causal_without_padding)
        config = self._stock.model.language_model.config
        config._attn_implementation = "prefix_grouper_attention"

    def _hidden(self, embeds_1PD: Tensor, positions_31P: Tensor) -> Tensor:
        fed = self._fed()
        num_rollouts, num_fed, width = fed.shape
        prefix_1P = torch.ones(1, embeds_1PD.shape[1], dtype=torch.long)
        answers_GA = torch.ones(num_rollouts, num_fed, dtype=torch.long)
        grouper = PrefixGrouper.from_ungrouped_masks(
            prefix_1P, answers_GA, group_sizes=num_rollouts, device="cpu"
        )
        after = self._positions_after(positions_31P, 1).repeat(1, 1, num_rollouts)
        hidden = self._stock.model.language_model(
            inputs_embeds=grouper.concat_input(embeds_1PD, prefix_1P, fed, answers_GA),
            position_ids=torch.cat((positions_31P, after), dim=2),
            attention_mask={"full_attention": None},
            use_cache=False,
            prefix_grouper=grouper,
            prefix_grouper_attn_func="causal_without_padding",
        ).last_hidden_state
        split: Any = grouper.split_output(hidden, include_prefix_last=1)
        _, _, hidden_GAD, _ = split
        assert hidden_GAD.shape == (num_rollouts, num_fed + 1, width)
        return hidden_GAD


def _causal_without_padding(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, _: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Queries are the last positions of the keys'."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    mask = None
    if num_queries < num_keys:
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        mask = mask[None, None]
    return sdpa_attention_forward(module, query, key, value, mask, **options)

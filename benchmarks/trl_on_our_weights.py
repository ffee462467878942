"""Our text model as transformers knows language models, so that TRL's `GRPOTrainer` scores it.

Every rollout is a row of its own with prompt and picture, and TRL's loss is computed from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.stock_model import stock_tokenizer
from benchmarks.train_task import Task
from benchmarks.train_trl import grpo_trainer
from trainer.adapters.lora import Adapter
from trainer.model.moondream import Moondream
from trainer.step_plan import Example


def loss_by_trl(
    moondream: Moondream,
    adapter: Adapter,
    examples: Sequence[Example],
    features: Mapping[str, Tensor],
    *,
    loss_type: str,
    clip: float,
    beta: float,
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient as `GRPOTrainer` computes them from rows.

    Args:
        features: [I, D] image tokens by digest, at most one picture.
    """
    model = CausalModel(moondream, adapter, features)
    inputs = _rows(moondream, examples)
    trainer = grpo_trainer(
        model,
        stock_tokenizer(),
        [{"role": "user", "content": [{"type": "text", "text": "word"}]}],
        Task(num_rollouts=len(examples), num_tokens=inputs["completion_ids"].shape[1]),
        gradient_checkpointing=False,
        loss_type=loss_type,
        epsilon=clip,
    )
    if beta:
        # Given to the constructor, it would look for the reference model on disk.
        trainer.beta = beta
        with torch.no_grad():
            inputs["ref_per_token_logps"] = _reference(trainer, model, inputs)
    loss = trainer.compute_loss(model.train(), inputs)
    loss.backward()
    gradient = {name: leaf.grad for name, leaf in model.adapter.tensors.items()}
    return float(loss), {n: g for n, g in gradient.items() if g is not None}


def _reference(trainer: Any, model: CausalModel, inputs: dict[str, Any]) -> Tensor:
    """Log-probabilities of the base model, by TRL's own function."""
    adapter, model.base.adapter = model.base.adapter, None
    logprobs, *_ = trainer._get_per_token_logps_and_entropies(
        model,
        torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), dim=1),
        torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), dim=1),
        inputs["completion_ids"].shape[1],
    )
    model.base.adapter = adapter
    return logprobs


def _rows(model: Moondream, examples: Sequence[Example]) -> dict[str, Any]:
    """Prompts padded on the left, answers on the right; a picture is as many of one token."""
    config = model.config
    prompts: list[list[int]] = []
    for example in examples:
        num_image = 0 if example.row.image is None else config.vision.num_image_tokens
        ids = [config.tokenizer.bos_id] + [_image_id(model)] * num_image
        prompts.append(ids + [element.token for element in example.row.prompt])
    answers = [[action.token for action in example.row.actions] for example in examples]
    logprobs = [[action.logprob or 0.0 for action in e.row.actions] for e in examples]
    answers_mask = _padded([[1] * len(answer) for answer in answers])
    return {
        "prompt_ids": _padded([ids[::-1] for ids in prompts]).flip(1),
        "prompt_mask": _padded([[1] * len(ids) for ids in prompts]).flip(1),
        "completion_ids": _padded(answers),
        "completion_mask": answers_mask,
        "old_per_token_logps": _padded(logprobs),
        "advantages": torch.tensor([example.advantage for example in examples]),
        "num_items_in_batch": answers_mask.sum().float(),
    }


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _image_id(model: Moondream) -> int:
    """A token that no answer of a picture's case holds."""
    return model.config.text.vocab_size


class Backbone(nn.Module):
    """Ids and a mask become the hidden states that the language head reads."""

    def __init__(self, model: Moondream, adapter: Adapter, features: Mapping[str, Tensor]):
        super().__init__()
        self._model = model
        self.adapter: Adapter | None = adapter
        self._features = features

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        text = self._model.text
        is_image_BT = input_ids == _image_id(self._model)
        embeds_BTD = text.embed_tokens(input_ids.masked_fill(is_image_BT, 0))
        for tokens_ID in self._features.values():
            embeds_BTD = embeds_BTD.masked_scatter(
                is_image_BT[..., None], tokens_ID.repeat(len(input_ids), 1)
            )
        positions_BT = (attention_mask.cumsum(1) - 1).clamp(min=0)
        num_first_B1 = 1 + is_image_BT.sum(1, keepdim=True)
        is_first_BT = (positions_BT < num_first_B1) & attention_mask.bool()
        slots = torch.arange(input_ids.shape[1])
        sees_BTS = (slots <= slots[:, None]) | (is_first_BT[:, :, None] & is_first_BT[:, None])
        sees_BTS &= attention_mask.bool()[:, None]
        sees_BTS |= slots == slots[:, None]  # padding sees itself, or its softmax has no terms
        hidden_BTD = text(
            embeds_BTD,
            positions_BT=positions_BT,
            attention_mask_BTS=sees_BTS,
            adapter=self.adapter,
        )
        return BaseModelOutput(last_hidden_state=text.post_ln(hidden_BTD))


class CausalModel(PreTrainedModel):
    """Our text model as transformers knows language models; the adapter's leaves take gradients."""

    config_class = PretrainedConfig
    base_model_prefix = "base"

    def __init__(self, model: Moondream, adapter: Adapter, features: Mapping[str, Tensor]):
        super().__init__(PretrainedConfig())
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.tensors.items()}
        self.adapter = Adapter(model.config.text, adapter.rank, leaves)
        self.base = Backbone(model, self.adapter, features)
        self.head = model.text.lm_head
        self.generation_config = GenerationConfig()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, **_: Any) -> Any:
        raise NotImplementedError("TRL reads hidden states and head; nothing is generated")

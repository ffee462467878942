"""TRL's `GRPOTrainer` on the stock model, at the defaults that it ships with.

What is set beside them: the size of the group (so the batch is one group), the length of answers,
float32 on the CPU, and that nothing is logged or saved. So the loss is `dapo` without divergence,
activations are checkpointed, every row carries its own picture, and answers come from transformers'
`generate`; they may not end before their length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.stock_model import (
    Sizes,
    gradient_of,
    stock_inputs,
    stock_lora,
    stock_messages,
    stock_model,
    stock_processor,
    stock_tokenizer,
    wake_lora,
)
from benchmarks.train_task import Task


class Trl:
    """One group of the task.

    Args:
        is_checkpointed: Whether activations are computed again in the backward pass; TRL's default.
    """

    def __init__(self, task: Task, sizes: Sizes | None = None, *, is_checkpointed: bool = True):
        self._task, sizes = task, sizes or Sizes()
        tokenizer = stock_tokenizer()
        processor = stock_processor(tokenizer, sizes)
        self.trainer = grpo_trainer(
            stock_model(tokenizer, sizes),
            processor if task.has_picture else tokenizer,
            stock_messages(task, sizes),
            task,
            gradient_checkpointing=is_checkpointed,
            peft_config=stock_lora(),
        )
        self.model: Any = self.trainer.model
        wake_lora(self.model)
        self.model.train()
        if is_checkpointed:  # as `train` does at its start
            self.model.gradient_checkpointing_enable()
        self.inputs = _scored_inputs(task, stock_inputs(processor, task, sizes))

    def step(self) -> float:
        """The loss of given answers; its gradient is left in the adapter."""
        self.model.zero_grad(set_to_none=True)
        loss = self.trainer.compute_loss(self.model, self.inputs)
        loss.backward()
        return float(loss)

    def gradient(self) -> dict[str, Tensor]:
        return gradient_of(self.model)

    def train(self) -> None:
        """One step with all that belongs to it."""
        self.trainer.train()


def grpo_trainer(
    model: Any,
    processor: Any,
    messages: list[dict[str, Any]],
    task: Task,
    *,
    peft_config: Any = None,
    **options: Any,
) -> GRPOTrainer:
    """A trainer that makes one step on one group."""
    config = GRPOConfig(
        output_dir=str(Path(tempfile.gettempdir(), "moontune-benchmark-trl")),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=task.num_rollouts,
        num_generations=task.num_rollouts,
        max_completion_length=task.num_tokens,
        generation_kwargs={"min_new_tokens": task.num_tokens},
        max_steps=1,
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        **options,
    )

    def rewards(completions: list[Any], **_: Any) -> list[float | None]:
        assert len(completions) == task.num_rollouts
        return [*task.rewards]

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=config,
        train_dataset=_dataset(messages),
        processing_class=processor,
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.current_gradient_accumulation_steps = 1  # `train` sets it
    return trainer


def _dataset(messages: list[dict[str, Any]]) -> Dataset:
    """The prompt as TRL takes it, the picture in a column of its own."""
    parts = messages[0]["content"]
    text = " ".join(part["text"] for part in parts if part["type"] == "text")
    row: dict[str, Any] = {"prompt": [{"role": "user", "content": text}]}
    for part in parts:
        if part["type"] == "image":
            row["image"] = part["image"]
    return Dataset.from_list([row])


def _scored_inputs(task: Task, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What TRL hands to its loss after generation: each row has its own prompt and picture."""
    num = task.num_rollouts
    answers_GA = task.answers_GA
    scored: dict[str, Any] = {
        "prompt_ids": inputs["input_ids"].repeat(num, 1),
        "prompt_mask": inputs["attention_mask"].repeat(num, 1),
        "completion_ids": answers_GA,
        "completion_mask": torch.ones_like(answers_GA),
        "advantages": task.advantages_G,
        "num_items_in_batch": torch.tensor(float(answers_GA.numel())),
    }
    if task.has_picture:
        types_1P = inputs["mm_token_type_ids"].repeat(num, 1)
        scored |= {
            "pixel_values": inputs["pixel_values"].repeat(num, 1),
            "image_grid_thw": inputs["image_grid_thw"].repeat(num, 1),
            "num_images": [1] * num,
            "mm_token_type_ids": torch.cat((types_1P, torch.zeros_like(answers_GA)), dim=1),
        }
    return scored

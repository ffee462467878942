"""A stock vision-language model of our geometry: Qwen2.5-VL from its configuration, with PEFT.

Width, depth and heads of text and vision, patches and vocabulary are ours. Its MLPs have three
matrices where ours have two, so they are narrower, to have as many weights. Nothing is downloaded:
weights are random, and the tokenizer is a list of words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from benchmarks.rollout_sides import HEADS, HIDDEN, LAYERS, RANK, THEIR_INNER, VOCABULARY
from benchmarks.train_task import SIDE_PX, Task, noise_pixels

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
BEFORE_IMAGE, AFTER_IMAGE = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = [PAD, END, UNKNOWN, TURN, TURN_END, BEFORE_IMAGE, AFTER_IMAGE, IMAGE, VIDEO]
WORD = "word"

CHAT = """\
{%- for message in messages -%}
<|im_start|> {{ message.role }}
{%- if message.content is string %} {{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' %} <|vision_start|><|image_pad|><|vision_end|>
{%- else %} {{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif %} <|im_end|> {% endfor -%}
{%- if add_generation_prompt -%}<|im_start|> model{%- endif -%}
"""
AROUND_TEXT, AROUND_IMAGE = 5, 2
"""What the template adds to the words, and to a picture."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Those of the comparison; smaller ones serve to check that all compute the same."""

    hidden: int = HIDDEN
    inner: int = THEIR_INNER
    layers: int = LAYERS
    heads: int = HEADS
    side_px: int = SIDE_PX
    vision_hidden: int = 192
    vision_inner: int = 512
    vision_layers: int = 4
    vision_heads: int = 3

    @property
    def num_image_tokens(self) -> int:
        return (self.side_px // 14) ** 2


SMALL = Sizes(
    hidden=64, inner=96, layers=3, heads=2, side_px=56, vision_hidden=32, vision_inner=32,
    vision_layers=2, vision_heads=2,
)  # fmt: skip


class ImageProcessor(Qwen2_5_VLProcessor):
    """Without a processor of videos, which needs a package that is not here."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str):
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def stock_tokenizer() -> PreTrainedTokenizerFast:
    words = [*SPECIAL, "user", "model", WORD]
    words += [f"w{number}" for number in range(len(words), VOCABULARY)]
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=SPECIAL[3:],
        padding_side="left",
        chat_template=CHAT,
    )


def stock_processor(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> ImageProcessor:
    num_pixels = sizes.side_px**2
    images = Qwen2VLImageProcessorPil(
        patch_size=14,
        merge_size=1,
        temporal_patch_size=2,
        size={"shortest_edge": num_pixels, "longest_edge": num_pixels},
    )
    return ImageProcessor(images, tokenizer, CHAT)


def stock_model(
    tokenizer: PreTrainedTokenizerFast, sizes: Sizes
) -> Qwen2_5_VLForConditionalGeneration:
    """Float32, frozen; attention is torch's own, as is the default."""
    pairs = sizes.hidden // sizes.heads // 2
    text = {
        "vocab_size": VOCABULARY, "hidden_size": sizes.hidden, "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.heads, "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "use_sliding_window": False,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0,
            "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],
        },
    }  # fmt: skip
    vision = {
        "depth": sizes.vision_layers, "hidden_size": sizes.vision_hidden,
        "intermediate_size": sizes.vision_inner, "num_heads": sizes.vision_heads,
        "out_hidden_size": sizes.hidden, "patch_size": 14, "spatial_merge_size": 1,
        "temporal_patch_size": 2, "fullatt_block_indexes": list(range(sizes.vision_layers)),
    }  # fmt: skip
    ids: dict[str, Any] = {word: tokenizer.convert_tokens_to_ids(word) for word in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[BEFORE_IMAGE],
        vision_end_token_id=ids[AFTER_IMAGE],
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).float().requires_grad_(False)
    assert model.config._attn_implementation == "sdpa"
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def stock_lora() -> LoraConfig:
    """Our rank on the MLPs of the text model, unscaled."""
    return LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=r".*language_model.*\.(gate_proj|up_proj|down_proj)",
    )


def wake_lora(model: torch.nn.Module) -> None:
    """Give both factors values that depend on nothing else; all of the adapter matters then."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.02, generator=generator)


def gradient_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """What a backward pass left, by the name of the parameter."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def stock_messages(task: Task, sizes: Sizes) -> list[dict[str, Any]]:
    """A conversation that takes the positions of the task's prefix."""
    num_words = task.prefix - AROUND_TEXT
    if task.has_picture:
        num_words -= sizes.num_image_tokens + AROUND_IMAGE
    parts: list[dict[str, Any]] = [{"type": "text", "text": " ".join([WORD] * num_words)}]
    if task.has_picture:
        parts.insert(0, {"type": "image", "image": stock_picture(sizes)})
    return [{"role": "user", "content": parts}]


def stock_inputs(processor: ImageProcessor, task: Task, sizes: Sizes) -> dict[str, Tensor]:
    """The prompt as the model takes it: [1, P] ids and mask, and the picture's patches."""
    inputs: Any = processor.apply_chat_template(
        [stock_messages(task, sizes)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert inputs["input_ids"].shape[1] == task.prefix
    return dict(inputs)


def stock_picture(sizes: Sizes) -> Image.Image:
    return Image.fromarray(noise_pixels(side_px=sizes.side_px))

"""A model with random weights as if it had been loaded: with a tokenizer and a description."""

from __future__ import annotations

from benchmarks.random_checkpoint.checkpoint import TOKENIZER
from contract.engine import ModelInfo
from trainer.loading import LoadedModel
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import Tokenizer
from trainer.skills.base import Language


def as_loaded(model: Moondream, config: MoondreamConfig) -> LoadedModel:
    """The tokenizer is that of the tiny model; ids beyond its own decode to nothing."""
    wte = model.text.wte
    language = Language(
        tokenizer=Tokenizer.from_file(TOKENIZER),
        ids=config.tokenizer,
        vocab_size=config.text.vocab_size,
        coord_divisor=config.region.coord_divisor,
    )
    info = ModelInfo(
        name="random",
        family=config.family.value,
        digest="",
        device=str(wte.device),
        dtype=str(wte.dtype).removeprefix("torch."),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_context=config.text.max_context,
        skills=(),
        tunable_skills=(),
    )
    return LoadedModel(model=model, language=language, info=info)

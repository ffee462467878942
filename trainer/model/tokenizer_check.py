"""Whether a tokenizer file belongs to a model: its special ids, and the words of the templates.

A wrong one fails late and quietly, as nonsense answers; the Moondream 2 repository carries one.
"""

from __future__ import annotations

import re

from trainer.model.config import Templates
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_SPECIAL = re.compile(r"<\|.+\|>")

# What the published ids of the templates say; other ids belong to models with words of their own.
PUBLISHED_WORDS = {
    (15381,): "query",
    (32708,): "describe",
    (12492,): "short",
    (6382,): "normal",
    (4059,): "long",
    (7235, 476): "detect",
    (2581,): "point",
    (17374,): "segment",
}


def tokenizer_problems(tokenizer: Tokenizer, config: MoondreamConfig) -> list[str]:
    """What speaks against a tokenizer, one phrase each; empty when it fits."""
    ids = config.tokenizer
    problems = []
    if tokenizer.vocab_size > config.text.vocab_size:
        problems.append(
            f"it has {tokenizer.vocab_size} entries, the model {config.text.vocab_size}"
        )
    if tokenizer.token(ids.eos_id) != END_OF_TEXT:
        problems.append(
            f"id {ids.eos_id} is {tokenizer.token(ids.eos_id)!r}, wanted {END_OF_TEXT!r}"
        )
    marks = {ids.answer_id, ids.thinking_id, ids.coord_id, ids.size_id,
             ids.start_ground_points_id, ids.end_ground_id}  # fmt: skip
    problems += [
        f"id {mark} is {tokenizer.token(mark)!r}, wanted a mark such as '<|...|>'"
        for mark in sorted(marks)
        if not _SPECIAL.fullmatch(tokenizer.token(mark) or "")
    ]
    for words in _template_words(config.tokenizer.templates):
        if (wanted := PUBLISHED_WORDS.get(words)) is None:
            continue
        if (read := tokenizer.decode(words).strip()) != wanted:
            problems.append(f"ids {list(words)} read {read!r}, wanted {wanted!r}")
    return problems


def _template_words(templates: Templates) -> list[tuple[int, ...]]:
    """The ids between the two prompt marks, and the length word of captions."""
    found = []
    for part in (templates.query, templates.detect, templates.point, templates.segment):
        if part is not None:
            found.append(part.prefix[1:-1])
    for prompt in (templates.caption.short, templates.caption.normal, templates.caption.long):
        found += [prompt[1:2], prompt[3:4]]
    return found

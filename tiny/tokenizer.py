"""The tokenizer of the tiny Moondream: byte-level BPE, made from the texts of `tiny.scenes`.

    python -m tiny.tokenizer OUT/tokenizer.json

writes the same bytes every time. Ids 0-20 are reserved with the meanings of the large model, 21-276
are the bytes, the rest are merges, in the order they were learnt.

The reserved names are entries of the vocabulary but not "added tokens": a user who types
"<|endoftext|>" gets the letters, never id 0. The decoder writes nothing for a reserved id.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny.scenes import training_example
from tiny.tasks import texts_of

VOCAB_SIZE = 512

# Position is id. The words of the prompt templates have reserved ids of their own, so no text can
# imitate a template.
RESERVED = (
    "<|endoftext|>",
    "<|prompt_start|>",
    "<|prompt_end|>",
    "<|answer|>",
    "<|thinking|>",
    "<|coord|>",
    "<|size|>",
    "<|start_ground_points|>",
    "<|reserved_8|>",
    "<|end_ground|>",
    "<|query|>",
    "<|describe|>",
    "<|short|>",
    "<|normal|>",
    "<|long|>",
    "<|detect_1|>",
    "<|detect_2|>",
    "<|point|>",
    "<|segment|>",
    "<|reserved_19|>",
    "<|reserved_20|>",
)

NUM_CORPUS_EXAMPLES = 4000


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer on a fixed corpus; `encode(text).ids` adds nothing to the text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(RESERVED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(corpus(), trainer)

    # The trainer registers its special tokens as added tokens, which are then found in the text of
    # users. A second tokenizer over the same vocabulary leaves them unregistered.
    vocabulary, merges = _vocabulary_and_merges(trained)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # The decoder sees one token at a time, so only a reserved id is dropped, not the same letters
    # in a text.
    drop_reserved = decoders.Replace(Regex(r"\A<\|[a-z0-9_]+\|>\z"), "")
    tokenizer.decoder = decoders.Sequence([drop_reserved, decoders.ByteLevel()])
    return tokenizer


def corpus() -> Iterator[str]:
    """Every text of a fixed set of examples, then each word alone, to become one token.

    Words stand with and without the space before them, because an answer may begin with any of
    them.
    """
    words: Counter[str] = Counter()
    for seed in range(NUM_CORPUS_EXAMPLES):
        for task in training_example(seed, num_shapes=(1, 5)).tasks:
            for text in texts_of(task):
                words.update(text.replace("?", " ").replace(",", " ").split())
                yield text
    for word in sorted(words):
        for text in (word, " " + word):
            yield from [text] * 1000


def _vocabulary_and_merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def tokenizer_config(family: str = "moondream3") -> dict[str, Any]:
    """The `tokenizer` block of a model's config.json.

    Args:
        family: "moondream3", or "moondream2", which doubles the answer mark of a query and cannot
            segment.
    """
    ids = {
        name: RESERVED.index(f"<|{name}|>") for name in ("query", "describe", "point", "segment")
    }
    start, end, answer, thinking = 1, 2, 3, 4
    lengths = {name: RESERVED.index(f"<|{name}|>") for name in ("short", "normal", "long")}
    detect = [RESERVED.index("<|detect_1|>"), RESERVED.index("<|detect_2|>")]
    query: dict[str, list[int]] = {
        "prefix": [start, ids["query"], end],
        "answer_prefix": [answer],
        "reasoning_prefix": [thinking],
        "post_reasoning_prefix": [],
    }
    segment: dict[str, list[int]] | None = {
        "prefix": [start, ids["segment"], end],
        "suffix": [answer],
    }
    if family == "moondream2":
        query |= {
            "answer_prefix": [answer, answer],
            "reasoning_prefix": [answer, thinking],
            "post_reasoning_prefix": [answer],
            "reasoning_suppressed_token_ids": [0, 6],
            "answer_suppressed_token_ids": [3],
        }
        segment = None
    elif family != "moondream3":
        raise ValueError(f"family is moondream2 or moondream3, got {family!r}")
    return {
        "bos_id": 0,
        "eos_id": 0,
        "answer_id": answer,
        "thinking_id": thinking,
        "coord_id": 5,
        "size_id": 6,
        "start_ground_points_id": 7,
        "end_ground_id": 9,
        "templates": {
            "caption": {
                name: [start, ids["describe"], end, token, answer]
                for name, token in lengths.items()
            },
            "query": query,
            "detect": {"prefix": [start, *detect, end], "suffix": [answer]},
            "point": {"prefix": [start, ids["point"], end], "suffix": [answer]},
            "segment": segment,
        },
    }


def main() -> None:
    """Write tokenizer.json to the path given."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tiny.tokenizer OUT")
    out = Path(sys.argv[1])
    path = out / "tokenizer.json" if out.is_dir() else out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(build_tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

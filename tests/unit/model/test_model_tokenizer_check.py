"""A tokenizer that belongs to another model is refused with what is wrong about it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers.models import WordLevel

from trainer.loading import LoadError, load
from trainer.model.config import Family
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import Tokenizer
from trainer.model.tokenizer_check import PUBLISHED_WORDS, tokenizer_problems

ROOT = Path(__file__).parents[3]
ORACLE = ROOT / "tests" / "reference" / "oracle"
MARKS = {f"<|mark_{i}|>": i for i in range(1, 10)}
WORDS = {
    **{words[0]: name for words, name in PUBLISHED_WORDS.items() if len(words) == 1},
    7235: "det",
    476: "ect",
}


def tokenizer_of(words: dict[int, str], marks: dict[str, int] = MARKS, end: int = 0) -> Tokenizer:
    vocab = {"<|endoftext|>": end, **marks, **{word: token for token, word in words.items()}}
    taken = set(vocab.values())
    vocab |= {f"filler{i}": i for i in range(51200) if i not in taken}
    built = tokenizers.Tokenizer(WordLevel(vocab, unk_token="filler11"))
    built.decoder = tokenizers.decoders.Fuse()
    return Tokenizer(built)


@pytest.fixture(scope="module", params=list(Family))
def published(request):
    return MoondreamConfig.from_published({}, family=request.param)


def test_the_published_ids_fit(published):
    assert tokenizer_problems(tokenizer_of(WORDS), published) == []


@pytest.mark.parametrize(
    "directory", [ORACLE / "moondream2", ORACLE / "moondream3", ROOT / "tiny" / "checkpoint"]
)
def test_models_with_words_of_their_own_fit_their_own_file(directory):
    config = MoondreamConfig.from_file(directory / "config.json")
    assert tokenizer_problems(Tokenizer.from_directory(directory), config) == []


def test_one_moved_word_is_named(published):
    problems = tokenizer_problems(tokenizer_of({**WORDS, 476: "filler"}), published)
    assert problems == ["ids [7235, 476] read 'detfiller', wanted 'detect'"]


def test_a_file_in_the_style_of_gpt2_is_named(published):
    """Characters come first there and the end of the text last."""
    first = {0: "!", **{i: chr(33 + i) for i in range(1, 10)}}
    problems = tokenizer_problems(tokenizer_of(first, marks={}, end=50256), published)
    assert problems[0] == "id 0 is '!', wanted '<|endoftext|>'"
    assert "id 5 is '&', wanted a mark such as '<|...|>'" in problems
    assert any("wanted 'query'" in problem for problem in problems)


def test_loading_refuses_it(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ORACLE / "moondream3" / name, tmp_path)
    built = tokenizers.Tokenizer(WordLevel({"!": 0, "<|endoftext|>": 1}, unk_token="!"))
    built.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(LoadError, match="is not the tokenizer of this model: id 0 is '!'"):
        load(tmp_path, name="x", device="cpu", dtype="float32")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match="is no tokenizer file"):
        load(tmp_path, name="x", device="cpu", dtype="float32")

"""The tiny tokenizer: reproducible, loses nothing, keeps reserved ids out of reach of texts."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from examples.shapes import HELD_OUT_COLORS, HELD_OUT_KINDS, TRAINED_COLORS, TRAINED_KINDS
from tiny.tokenizer import RESERVED, VOCAB_SIZE, build_tokenizer, corpus, tokenizer_config

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "tiny" / "checkpoint" / "tokenizer.json"
TOKENIZER = Tokenizer.from_file(str(BUNDLED))


def test_the_bundled_tokenizer_is_the_one_that_is_built():
    assert BUNDLED.read_text(encoding="utf-8") == build_tokenizer().to_str(pretty=True)


def test_another_process_writes_the_same_bytes(tmp_path):
    path = tmp_path / "tokenizer.json"
    subprocess.run([sys.executable, "-m", "tiny.tokenizer", str(path)], cwd=ROOT, check=True)
    assert path.read_text(encoding="utf-8") == TOKENIZER.to_str(pretty=True) + "\n"
    assert (
        Tokenizer.from_file(str(path)).encode("red circle").ids
        == TOKENIZER.encode("red circle").ids
    )


def test_the_recorded_vocabulary_has_not_changed():
    # Recorded from this code. A pretrained tiny model is of use with this vocabulary only.
    entries = "\n".join(TOKENIZER.id_to_token(i) for i in range(VOCAB_SIZE))
    digest = hashlib.sha256(entries.encode()).hexdigest()
    assert digest == "ac98b17c6c05f759be340d4ff1093dfcbfbb3cab672aa62076dbc13cc6626e7e"


def test_ids_are_reserved_then_bytes_then_merges():
    assert TOKENIZER.get_vocab_size() == VOCAB_SIZE
    assert [TOKENIZER.id_to_token(i) for i in range(21)] == list(RESERVED)
    assert all(len(TOKENIZER.id_to_token(i)) == 1 for i in range(21, 277))
    assert all(len(TOKENIZER.id_to_token(i)) > 1 for i in range(277, VOCAB_SIZE))


@given(st.text())
@example("<|endoftext|> <|coord|>")
@example("  two  spaces\n\n\t and é ☃ 🐈")
def test_text_survives_a_round_trip_and_never_becomes_a_reserved_id(text):
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids) == text
    assert all(i >= len(RESERVED) for i in ids)


def test_reserved_ids_decode_to_nothing():
    assert TOKENIZER.decode(list(range(21))) == ""
    assert TOKENIZER.decode([7, *TOKENIZER.encode("red").ids, 5, 5, 9]) == "red"


@pytest.mark.parametrize(
    "word", TRAINED_COLORS + TRAINED_KINDS + ("shape", "small", "medium", "large", "what", "left")
)
def test_common_words_are_single_tokens_after_a_space(word):
    assert len(TOKENIZER.encode(" " + word).ids) == 1


def test_held_out_words_are_not_in_the_corpus():
    held_out = re.compile("|".join(HELD_OUT_KINDS + HELD_OUT_COLORS))
    assert not any(held_out.search(text) for text in corpus())


def test_template_words_are_reserved_ids_and_all_different():
    templates = tokenizer_config()["templates"]
    words = [*templates["detect"]["prefix"][1:-1]]
    words += [templates[name]["prefix"][1] for name in ("query", "point", "segment")]
    words += [templates["caption"]["short"][1]] + [ids[3] for ids in templates["caption"].values()]
    assert len(set(words)) == len(words) == 9
    assert all(10 <= word <= 20 for word in words)


def test_configs_have_the_ids_of_both_families():
    ours, older = tokenizer_config(), tokenizer_config("moondream2")
    names = (
        "bos_id",
        "eos_id",
        "answer_id",
        "thinking_id",
        "coord_id",
        "size_id",
        "start_ground_points_id",
        "end_ground_id",
    )
    assert [ours[name] for name in names] == [0, 0, 3, 4, 5, 6, 7, 9]
    assert ours["templates"]["query"] == {
        "prefix": [1, 10, 2],
        "answer_prefix": [3],
        "reasoning_prefix": [4],
        "post_reasoning_prefix": [],
    }
    assert older["templates"]["query"]["answer_prefix"] == [3, 3]
    assert older["templates"]["segment"] is None
    assert json.loads(json.dumps(ours)) == ours
    with pytest.raises(ValueError, match="moondream4"):
        tokenizer_config("moondream4")

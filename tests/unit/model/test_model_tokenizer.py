"""What the trainer makes of a tokenizer."""

from __future__ import annotations

from tests.micro import tokenizer


def test_no_text_of_ours_holds_nul_which_no_body_may_bring_back() -> None:
    words = tokenizer()
    assert words.decode(words.encode("a\0b")) == "ab"
    assert len(words.encode("a\0b")) == 3

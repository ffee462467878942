"""Text to token ids and back. Templates and special ids are in the model config, not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """A thin wrapper over a `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        return cls(tokenizers.Tokenizer.from_file(str(path)))

    @classmethod
    def from_directory(cls, directory: str | Path) -> Tokenizer:
        """Read the `tokenizer.json` that lies beside a model."""
        return cls.from_file(Path(directory) / TOKENIZER_FILE)

    @property
    def vocab_size(self) -> int:
        """Entries that decode to something; the model's vocabulary is often larger."""
        return self._vocab_size

    def token(self, token_id: int) -> str | None:
        """The entry of an id as the file spells it; None beyond the vocabulary."""
        return self._tokenizer.id_to_token(token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` exactly as given: nothing is stripped."""
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special ids and ids beyond the vocabulary vanish.

        So does the character NUL: rollouts come back in bodies, and those may not hold it.
        """
        known = [token for token in ids if 0 <= token < self._vocab_size]
        return self._tokenizer.decode(known).replace("\0", "")

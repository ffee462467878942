"""What one train step asks for, and what makes two of them the same request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contract.groups import Group, TrainOptions
from contract.ids import parse_ulid
from server.services.images import ImageUrl
from server.services.keyed import KeyedCall


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """What one train step asks for, validated.

    Attributes:
        received_at: When its body was there (monotonic, seconds); its patience counts from then.
        keyed: If it came with an explicit key.
    """

    finetune_id: str
    groups: tuple[Group, ...]
    images: Sequence[ImageUrl]
    lr: float
    options: TrainOptions
    expected_step: int | None
    fingerprint: bytes
    received_at: float
    keyed: KeyedCall | None = None

    def identity(self, account_id: str) -> Identity:
        """What this request has in common with its resends."""
        fingerprint = self.fingerprint.hex()
        if self.keyed is not None:
            fingerprint = hashlib.sha256(f"{fingerprint} {self.keyed.key}".encode()).hexdigest()
        return Identity(
            account_id=account_id,
            finetune_id=parse_ulid(self.finetune_id) or self.finetune_id,
            fingerprint=fingerprint,
        )


class HeldOrder:
    """An order and the body that its pictures lie in, for as long as they are needed.

    A resend of a step that runs may wait for minutes and needs neither; were they kept, the resends
    of one slow step would take all the memory that bodies may have.
    """

    def __init__(self, order: TrainOrder, release: Callable[[], None]):
        self._order: TrainOrder | None = order
        self._release = release

    @property
    def order(self) -> TrainOrder:
        """The order; bind it to no name that outlives `let_go`."""
        assert self._order is not None, "it was let go of"
        return self._order

    def let_go(self) -> None:
        """Forget the order, and give its body back."""
        self._order = None
        self._release()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes two train requests the same: who asks, of which finetune, with which bytes.

    `fingerprint` is SHA-256 (hex) over the raw body, and over the explicit key if there is one.
    """

    account_id: str
    finetune_id: str
    fingerprint: str

    @property
    def finetune_key(self) -> tuple[str, str]:
        """The finetune, as one account knows it."""
        return self.account_id, self.finetune_id

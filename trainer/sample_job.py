"""What is asked of the sampler, what it gives, and a request on its way between the two."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from contract.engine import AdapterRef
from contract.skills import Pixels, Settings, SkillRequest
from contract.work import WorkClass
from trainer.adapters.bank import version_of
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.decoder import Ticket
from trainer.drawing import Heat, Rollout
from trainer.sequence import Trace


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Answers wanted.

    Attributes:
        adapter: None for the base model.
        images: The pictures that the request names by index; it need not show all of them.
        loc: Where the fields of the request stand in the caller's body.
        on_growth: Hears of the first rollout after each of its tokens.
    """

    work_class: WorkClass
    adapter: AdapterRef | None
    request: SkillRequest
    images: Sequence[Pixels]
    settings: Settings
    num_rollouts: int
    seed: int
    loc: tuple[str, ...] = ()
    on_growth: Callable[[Rollout], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The answers of a request, and what they took.

    Attributes:
        num_prompt_positions: BOS, image and prompt.
        prefill_seconds: For picture and prompt; 0 where both were known.
        first_token_seconds: From the arrival to the first token.
        decode_seconds: From the first token's draw to the end.
    """

    traces: tuple[Trace, ...]
    num_prompt_positions: int
    prefill_seconds: float
    first_token_seconds: float
    decode_seconds: float


@dataclass(eq=False, kw_only=True)
class SampleJob:
    """A request on its way."""

    ticket: Ticket
    wanted: SampleRequest
    row: Row
    arrived: float
    is_alone: bool = False
    is_blocked: bool = False
    is_unheard: bool = False
    adapter: Adapter | None = None
    num_prompt_positions: int = 0
    prefill_seconds: float = 0.0
    first_token: float | None = None
    leases: list[Callable[[], None]] = field(default_factory=list)

    @property
    def images(self) -> list[Pixels]:
        """The pictures that it shows, each once."""
        shown = self.row.digests
        by_digest = {i.digest: i for i in self.wanted.images if i.digest in shown}
        return list(by_digest.values())

    @property
    def prefix_key(self) -> Hashable:
        """Everything that the prefix depends on, the version of the weights above all."""
        ref = self.wanted.adapter
        version = None if ref is None else version_of(ref)
        return (version, self.row.image, self.row.pictures, self.row.prompt)

    @property
    def shared_as(self) -> Hashable:
        """What equal greedy requests have in common; None for others."""
        settings = self.wanted.settings
        if not Heat(temperature=settings.temperature, top_p=settings.top_p).is_greedy:
            return None
        limits = settings.max_tokens, settings.max_objects
        is_reasoning = getattr(self.wanted.request, "reasoning", False)
        return (self.prefix_key, self.wanted.request.skill, is_reasoning, limits)

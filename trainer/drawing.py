"""Draws: tokens and bins from hidden states, for rows of any request, all at once on the device.

Order at each position (model-facts.md section 6): float32 logits, the skill's mask, temperature,
top-p, one draw; bins are drawn from the same hidden state, independently. What is drawn for rollout
i at position t depends on (seed, i, t) alone. Log-probabilities are taken at temperature 1, without
top-p.

The host waits for the device once per call, to read what was drawn. Until then it does not know
which rows drew a coordinate or a size; bins are therefore drawn for all rows that may have.

Letters: N rows, U rows of some of them, D width, V vocabulary, C choices, B bins of a row, K
choices of a bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from contract.skills import FinishReason
from trainer.model.moondream import Moondream
from trainer.model.upload import uploaded
from trainer.philox import uniforms
from trainer.scoring import widen
from trainer.sequence import Action, Mask
from trainer.skills.base import Grammar

GREEDY_BELOW = 1e-4

TOKEN, FIRST_BIN, SECOND_BIN = 0, 1, 2
"""Which of the four uniforms of a position serves which draw."""

POSITIONS_AHEAD = 32
"""Uniforms are computed for so many positions of a rollout at a time."""

_TOKEN, _LOGPROB, _BINS, _BIN_LOGPROBS = 0, 1, slice(2, 4), slice(4, 6)
"""Columns of what the host reads of a row."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """How sharply to draw: temperature below 1e-4 takes the likeliest; top_p in (0, 1]."""

    temperature: float
    top_p: float

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(kw_only=True)
class Rollout:
    """One answer while it grows: the `index`-th of its request, which gave `seed`.

    Attributes:
        uniforms: Four of each position, as far as they were computed.
    """

    index: int
    seed: int
    heat: Heat
    grammar: Grammar
    actions: list[Action] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    uniforms: list[list[float]] = field(default_factory=list)


def draw(model: Moondream, rollouts: Sequence[Rollout], hidden_ND: Tensor) -> None:
    """Draw one action for every rollout and tell its grammar."""
    masks = [rollout.grammar.mask() for rollout in rollouts]
    drawing = _Drawing(model, rollouts, masks, hidden_ND)
    drawing.draw_tokens()
    drawing.draw_bins()
    ids = model.config.tokenizer
    num_bins_of = {ids.coord_id: 1, ids.size_id: 2}
    for rollout, mask, row in zip(rollouts, masks, drawing.read(), strict=True):
        token = int(row[_TOKEN])
        num_bins = num_bins_of.get(token, 0)
        action = Action(
            token=token,
            mask=mask,
            bins=tuple(int(index) for index in row[_BINS][:num_bins]),
            token_logprob=row[_LOGPROB],
            bin_logprobs=tuple(row[_BIN_LOGPROBS][:num_bins]),
        )
        rollout.actions.append(action)
        rollout.grammar.push(token)


class _Drawing:
    """One position of all rows; nothing here waits for the device but `read`."""

    def __init__(
        self,
        model: Moondream,
        rollouts: Sequence[Rollout],
        masks: Sequence[Mask],
        hidden_ND: Tensor,
    ):
        self._model = model
        self._masks = masks
        self._hidden_ND = hidden_ND
        self._heats = [rollout.heat for rollout in rollouts]
        self._uniform_N4 = uploaded(_next_uniforms(rollouts), hidden_ND.device, torch.float64)
        forced = [float(m.allowed[0]) if m.is_forced and m.allowed else 0.0 for m in masks]
        self._drawn_N6 = functional.pad(
            uploaded(forced, hidden_ND.device, torch.float64)[:, None], (0, 5)
        )

    def read(self) -> list[list[float]]:
        """What was drawn, row by row; the one time that the host waits."""
        return self._drawn_N6.tolist()

    def draw_tokens(self) -> None:
        """Tokens and their log-probabilities of the rows that have a choice."""
        free = [i for i, mask in enumerate(self._masks) if not mask.is_forced]
        self._draw_from_few([i for i in free if self._masks[i].allowed is not None])
        self._draw_from_all([i for i in free if self._masks[i].allowed is None])

    def draw_bins(self) -> None:
        """Bins and their log-probabilities of the rows that may have drawn a spatial token."""
        ids, region = self._model.config.tokenizer, self._model.region
        if rows := [i for i, mask in enumerate(self._masks) if mask.admits(ids.coord_id)]:
            self._put_bins(rows, widen(region.coord_logits(self._of(rows))[:, None]))
        if rows := [i for i, mask in enumerate(self._masks) if mask.admits(ids.size_id)]:
            # A row that may draw either has room for one kind: what the token says, counts.
            self._put_bins(rows, widen(region.size_logits(self._of(rows))), if_token=ids.size_id)

    def _draw_from_few(self, rows: list[int]) -> None:
        """Rows that choose among a few tokens: only those logits are computed."""
        if not rows:
            return
        allowed = [self._masks[i].allowed or () for i in rows]
        vocabulary = list(dict.fromkeys(token for few in allowed for token in few))
        place = {token: at for at, token in enumerate(vocabulary)}
        most = max(map(len, allowed))
        # In the order of each mask, so that a draw does not depend on the other rows.
        places = [[place[t] for t in few] + [-1] * (most - len(few)) for few in allowed]
        place_UC = self._tensor(places)
        vocabulary_V = self._tensor(vocabulary)
        logits_UV = widen(self._model.text.logits(self._of(rows), rows=vocabulary_V))
        logits_UC = logits_UV.gather(-1, place_UC.clamp(min=0))
        logits_UC = logits_UC.masked_fill(place_UC < 0, -torch.inf)
        chosen_U, logprob_U = self._choose(logits_UC, rows, TOKEN)
        token_U = vocabulary_V[place_UC.gather(-1, chosen_U[:, None]).squeeze(-1)]
        self._put_tokens(rows, token_U, logprob_U)

    def _draw_from_all(self, rows: list[int]) -> None:
        """Rows that choose from the vocabulary, some of it suppressed."""
        if not rows:
            return
        logits_UV = widen(self._model.text.logits(self._of(rows)))
        pairs = [(u, t) for u, i in enumerate(rows) for t in self._masks[i].suppressed]
        if pairs:
            row, token = self._tensor(pairs).unbind(-1)
            logits_UV = logits_UV.index_put((row, token), logits_UV.new_full((), -torch.inf))
        self._put_tokens(rows, *self._choose(logits_UV, rows, TOKEN))

    def _choose(self, logits_UC: Tensor, rows: list[int], which: int) -> tuple[Tensor, Tensor]:
        """[U] the choice of each row, and its log-probability."""
        heats = [self._heats[i] for i in rows]
        chosen_U = choose(logits_UC, self._rows_of(self._uniform_N4, rows)[:, which], heats)
        logprob_UC = logits_UC.log_softmax(-1)
        return chosen_U, logprob_UC.gather(-1, chosen_U[:, None]).squeeze(-1)

    def _put_tokens(self, rows: list[int], token_U: Tensor, logprob_U: Tensor) -> None:
        drawn_U2 = torch.stack((token_U.double(), logprob_U.double()), dim=-1)
        self._drawn_N6[self._tensor(rows), :2] = drawn_U2

    def _put_bins(
        self, rows: list[int], logits_UBK: Tensor, *, if_token: int | None = None
    ) -> None:
        num_bins = logits_UBK.shape[1]
        chosen, logprobs = [], []
        for bin_index in range(num_bins):
            choice = self._choose(logits_UBK[:, bin_index], rows, FIRST_BIN + bin_index)
            chosen.append(choice[0])
            logprobs.append(choice[1])
        at_U = self._tensor(rows)
        drawn_U6 = self._drawn_N6[at_U]
        found_U6 = drawn_U6.clone()
        found_U6[:, _BINS.start : _BINS.start + num_bins] = torch.stack(chosen, -1).double()
        first = _BIN_LOGPROBS.start
        found_U6[:, first : first + num_bins] = torch.stack(logprobs, -1).double()
        if if_token is not None:
            found_U6 = torch.where(drawn_U6[:, :1] == if_token, found_U6, drawn_U6)
        self._drawn_N6[at_U] = found_U6

    def _of(self, rows: list[int]) -> Tensor:
        return self._rows_of(self._hidden_ND, rows)

    def _rows_of(self, values: Tensor, rows: list[int]) -> Tensor:
        if len(rows) == len(self._masks):
            return values
        return values.index_select(0, self._tensor(rows))

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return uploaded(values, self._hidden_ND.device, torch.long)


def _next_uniforms(rollouts: Sequence[Rollout]) -> list[list[float]]:
    """The four uniforms of each one's next position; those of positions ahead once for all."""
    used_up = [rollout for rollout in rollouts if len(rollout.actions) == len(rollout.uniforms)]
    if used_up:
        ahead = torch.arange(POSITIONS_AHEAD)
        drawn = uniforms(
            [rollout.seed for rollout in used_up for _ in range(POSITIONS_AHEAD)],
            torch.tensor([r.index for r in used_up]).repeat_interleave(POSITIONS_AHEAD),
            torch.cat([len(rollout.uniforms) + ahead for rollout in used_up]),
        )
        for rollout, of_rollout in zip(used_up, drawn.split(POSITIONS_AHEAD), strict=True):
            rollout.uniforms += of_rollout.tolist()
    return [rollout.uniforms[len(rollout.actions)] for rollout in rollouts]


def choose(logits_UC: Tensor, uniform_U: Tensor, heats: Sequence[Heat]) -> Tensor:
    """Draw one index per row by inversion of the cumulative distribution.

    Args:
        logits_UC: [U, C] float32 or better, -inf where nothing may be drawn.
        uniform_U: [U] float64 in (0, 1).
        heats: Of each row. Greedy rows take the largest logit. By falling probability an entry
            stays while the sum before it is <= top_p.

    Returns:
        [U] int64.
    """
    device = logits_UC.device
    is_greedy = [heat.is_greedy for heat in heats]
    if all(is_greedy):
        return logits_UC.argmax(-1)
    temperatures = [1.0 if heat.is_greedy else heat.temperature for heat in heats]
    temperature_U = uploaded(temperatures, device, torch.float64)
    probability_UC = torch.softmax(logits_UC.double() / temperature_U[:, None], dim=-1)
    cut = [i for i, heat in enumerate(heats) if not heat.is_greedy and heat.top_p < 1.0]
    if cut:
        cut_U = uploaded(cut, device)
        top_p_U = uploaded([heats[i].top_p for i in cut], device, torch.float64)
        nucleus_UC = _nucleus(probability_UC.index_select(0, cut_U), top_p_U)
        probability_UC = probability_UC.index_copy(0, cut_U, nucleus_UC)
    cumulative_UC = probability_UC.cumsum(-1)
    threshold_U1 = (uniform_U * cumulative_UC[:, -1])[:, None]
    index_U = torch.searchsorted(cumulative_UC, threshold_U1, right=True).squeeze(-1)
    drawn_U = torch.minimum(index_U, _last_possible(probability_UC))
    if not any(is_greedy):
        return drawn_U
    return torch.where(uploaded(is_greedy, device), logits_UC.argmax(-1), drawn_U)


def _nucleus(probability_UC: Tensor, top_p_U: Tensor) -> Tensor:
    """The probabilities with 0 for what top-p leaves out."""
    sorted_UC, order_UC = probability_UC.sort(dim=-1, descending=True, stable=True)
    before_UC = functional.pad(sorted_UC.cumsum(-1)[:, :-1], (1, 0))
    sorted_UC = sorted_UC.masked_fill(before_UC > top_p_U[:, None], 0.0)
    return torch.zeros_like(probability_UC).scatter(-1, order_UC, sorted_UC)


def _last_possible(probability_UC: Tensor) -> Tensor:
    """The last index with any probability: where rounding would carry a draw past the end."""
    slots = torch.arange(probability_UC.shape[-1], device=probability_UC.device)
    return torch.where(probability_UC > 0, slots, 0).amax(-1)

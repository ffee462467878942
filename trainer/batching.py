"""Rows become one padded batch of embeddings, masks and actions.

A row is BOS, its image if it has one, a prompt, and the elements of the actions that followed. Rows
of a batch either all have an image or all have none; padding stands on the right, where nothing
looks at it.

Letters: B rows, T positions, I image positions, D width, A actions of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.moondream import Moondream
from trainer.model.text import prefix_mask
from trainer.model.upload import uploaded
from trainer.sequence import Action, Element


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence: a picture, named by its digest, the prompt behind it, and the answer."""

    image: str | None
    prompt: Sequence[Element]
    actions: tuple[Action, ...] = ()

    def elements(self, *, coord_divisor: int) -> list[Element]:
        """What stands behind BOS and image; nothing follows the last action."""
        fed = [action.element(coord_divisor=coord_divisor) for action in self.actions[:-1]]
        return [*self.prompt, *fed]

    def num_positions(self, num_image_tokens: int) -> int:
        image = 0 if self.image is None else num_image_tokens
        return 1 + image + len(self.prompt) + max(0, len(self.actions) - 1)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one forward pass reads.

    Attributes:
        embeds_BTD: In the model's dtype.
        positions_1T: 0, 1, 2, ...
        mask_1TT: The prefix-LM mask; None without pictures, where plain causal attention is meant.
        prefix_len: BOS and image, which see one another; 0 without pictures.
        actions: All actions, row by row.
        row_A: [A] the row of each action.
        at_A: [A] the position whose hidden state each action is drawn from.
    """

    embeds_BTD: Tensor
    positions_1T: Tensor
    mask_1TT: Tensor | None
    prefix_len: int
    actions: tuple[Action, ...]
    row_A: Tensor
    at_A: Tensor


def make_batch(model: Moondream, rows: Sequence[Row], features: Mapping[str, Tensor]) -> Batch:
    """Embed rows that all have an image, or all have none.

    Args:
        features: [I, D] image tokens by digest.
    """
    device = model.text.wte.device
    divisor = model.config.region.coord_divisor
    has_image = rows[0].image is not None
    assert all((row.image is not None) == has_image for row in rows)
    lead = 1 + (model.config.vision.num_image_tokens if has_image else 0)
    elements = [row.elements(coord_divisor=divisor) for row in rows]
    length = lead + max(len(e) for e in elements)
    num_rows = len(rows)
    ids = torch.full((num_rows, length), model.config.tokenizer.bos_id, dtype=torch.long)
    coords: list[tuple[int, float]] = []
    sizes: list[tuple[int, tuple[float, ...]]] = []
    for b, row_elements in enumerate(elements):
        ids[b, lead : lead + len(row_elements)] = torch.tensor(
            [e.token for e in row_elements], dtype=torch.long
        )
        for slot, element in enumerate(row_elements, start=b * length + lead):
            if len(element.values) == 1:
                coords.append((slot, element.values[0]))
            elif element.values:
                sizes.append((slot, element.values))
    embeds_BTD = model.embed_tokens(ids.to(device))
    if has_image:
        image_BID = torch.stack([features[row.image] for row in rows if row.image is not None])
        embeds_BTD = torch.cat(
            (embeds_BTD[:, :1], image_BID.to(embeds_BTD), embeds_BTD[:, lead:]), dim=1
        )
    embeds_BTD = _place_spatial(model, embeds_BTD, coords, sizes)
    rows_of, slots_of = _action_places(rows, lead)
    return Batch(
        embeds_BTD=embeds_BTD,
        positions_1T=torch.arange(length, device=device)[None],
        mask_1TT=prefix_mask(length, lead, device=device) if has_image else None,
        prefix_len=lead if has_image else 0,
        actions=tuple(action for row in rows for action in row.actions),
        row_A=uploaded(rows_of, device, torch.long),
        at_A=uploaded(slots_of, device, torch.long),
    )


def embed_elements(model: Moondream, elements: Sequence[Element]) -> Tensor:
    """[len(elements), 1, D]: one new position for each row of a decoding batch."""
    device = model.text.wte.device
    ids = uploaded([[e.token] for e in elements], device, torch.long)
    coords = [(i, e.values[0]) for i, e in enumerate(elements) if len(e.values) == 1]
    sizes = [(i, e.values) for i, e in enumerate(elements) if len(e.values) == 2]
    return _place_spatial(model, model.embed_tokens(ids), coords, sizes)


def micro_batches(
    rows: Sequence[Row], *, num_image_tokens: int, max_tokens: int
) -> Iterator[list[int]]:
    """Split rows into batches of similar length, each at most `max_tokens` with its padding.

    Yields indexes of rows; a row longer than the budget gets a batch of its own. The split depends
    on lengths alone, so the same rows always fall the same way.
    """
    lengths = [row.num_positions(num_image_tokens) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].image is None, lengths[i], i))
    batch: list[int] = []
    for index in order:
        is_same_kind = not batch or (rows[batch[0]].image is None) == (rows[index].image is None)
        if batch and not (is_same_kind and lengths[index] * (len(batch) + 1) <= max_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _place_spatial(
    model: Moondream,
    embeds_BTD: Tensor,
    coords: Sequence[tuple[int, float]],
    sizes: Sequence[tuple[int, tuple[float, ...]]],
) -> Tensor:
    """Put the region encoders' embeddings where coordinate and size tokens stand, by flat slot."""
    flat = embeds_BTD.reshape(-1, embeds_BTD.shape[-1])
    for places, encode in ((coords, model.region.encode_coord), (sizes, model.region.encode_size)):
        if places:
            slots = uploaded([slot for slot, _ in places], flat.device)
            values = uploaded([value for _, value in places], flat.device, torch.float64)
            flat = flat.index_copy(0, slots, encode(values).to(flat.dtype))
    return flat.view(embeds_BTD.shape)


def _action_places(rows: Sequence[Row], lead: int) -> tuple[list[int], list[int]]:
    row_of: list[int] = []
    slot_of: list[int] = []
    for b, row in enumerate(rows):
        first = lead + len(row.prompt) - 1
        row_of += [b] * len(row.actions)
        slot_of += range(first, first + len(row.actions))
    return row_of, slot_of

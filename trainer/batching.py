"""Rows and streams of elements become embeddings.

A row is BOS, its image if it has one, a prompt, and the elements of the actions that followed. The
prompts of a batch either all have an image or all have none; padding stands on the right, where
nothing looks at it. A prompt with further pictures in it is a batch of its own.

Letters: B rows, T positions, I image positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.moondream import Moondream
from trainer.model.text import block_mask
from trainer.model.upload import uploaded
from trainer.sequence import Action, Element


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence: a picture, named by its digest, the prompt behind it, and the answer.

    Attributes:
        pictures: Further ones: in front of which element of the prompt each stands, ascending, and
            its digest.
    """

    image: str | None
    prompt: Sequence[Element]
    actions: tuple[Action, ...] = ()
    pictures: tuple[tuple[int, str], ...] = ()

    @property
    def digests(self) -> frozenset[str]:
        """All its pictures."""
        first = () if self.image is None else (self.image,)
        return frozenset((*first, *(digest for _, digest in self.pictures)))

    def fed(self, *, coord_divisor: int) -> tuple[Element, ...]:
        """What its actions put behind the prompt; nothing follows the last."""
        return tuple(action.element(coord_divisor=coord_divisor) for action in self.actions[:-1])

    def num_positions(self, num_image_tokens: int) -> int:
        num_pictures = len(self.pictures) + (self.image is not None)
        num_fed = max(0, len(self.actions) - 1)
        return 1 + num_pictures * num_image_tokens + len(self.prompt) + num_fed


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a pass over prompts reads.

    Attributes:
        embeds_BTD: In the model's dtype.
        positions_1T: 0, 1, 2, ...
        prefix_len: BOS and image, which see one another; 0 without pictures, and with a mask.
        mask_1TT: Who sees whom, of a prompt with further pictures.
    """

    embeds_BTD: Tensor
    positions_1T: Tensor
    prefix_len: int
    mask_1TT: Tensor | None = None


def make_batch(model: Moondream, rows: Sequence[Row], features: Mapping[str, Tensor]) -> Batch:
    """Embed the prompts of rows that all have an image, or all have none.

    A row with further pictures comes alone: each of them sees itself in both directions.

    Args:
        features: [I, D] image tokens by digest.
    """
    device = model.text.wte.device
    has_image = rows[0].image is not None
    assert all((row.image is not None) == has_image for row in rows)
    if any(row.pictures for row in rows):
        (row,) = rows
        return _with_further_pictures(model, row, features)
    lead = 1 + (model.config.vision.num_image_tokens if has_image else 0)
    length = lead + max(len(row.prompt) for row in rows)
    stream: list[Element | None] = []
    for row in rows:
        stream += [None] * lead + [*row.prompt] + [None] * (length - lead - len(row.prompt))
    pictures = {
        b * length + 1: features[row.image] for b, row in enumerate(rows) if row.image is not None
    }
    return Batch(
        embeds_BTD=embed_stream(model, stream, pictures).view(len(rows), length, -1),
        positions_1T=torch.arange(length, device=device)[None],
        prefix_len=lead if has_image else 0,
    )


def _with_further_pictures(model: Moondream, row: Row, features: Mapping[str, Tensor]) -> Batch:
    device = model.text.wte.device
    num_image_tokens = model.config.vision.num_image_tokens
    stream: list[Element | None] = [None]
    pictures: dict[int, Tensor] = {}
    blocks: list[tuple[int, int]] = []

    def show(digest: str) -> None:
        start = len(stream)
        pictures[start] = features[digest]
        stream.extend([None] * num_image_tokens)
        # BOS sees the picture that follows it at once, as it does where there is no other.
        blocks.append((0 if start == 1 else start, len(stream)))

    if row.image is not None:
        show(row.image)
    begin = 0
    for index, digest in row.pictures:
        stream += row.prompt[begin:index]
        begin = index
        show(digest)
    stream += row.prompt[begin:]
    return Batch(
        embeds_BTD=embed_stream(model, stream, pictures),
        positions_1T=torch.arange(len(stream), device=device)[None],
        prefix_len=0,
        mask_1TT=block_mask(len(stream), blocks, device=device),
    )


def embed_stream(
    model: Moondream, stream: Sequence[Element | None], pictures: Mapping[int, Tensor]
) -> Tensor:
    """Embed what stands at each position.

    Args:
        stream: None stands for BOS, padding, and positions that a picture takes.
        pictures: [I, D] image tokens by the position of the first.

    Returns:
        [1, T, D].
    """
    device = model.text.wte.device
    bos_id = model.config.tokenizer.bos_id
    ids = [bos_id if element is None else element.token for element in stream]
    coords: list[tuple[int, float]] = []
    sizes: list[tuple[int, tuple[float, ...]]] = []
    for slot, element in enumerate(stream):
        if element is not None and len(element.values) == 1:
            coords.append((slot, element.values[0]))
        elif element is not None and element.values:
            sizes.append((slot, element.values))
    embeds_1TD = model.embed_tokens(uploaded([ids], device, torch.long))
    embeds_1TD = _place_spatial(model, embeds_1TD, coords, sizes)
    if not pictures:
        return embeds_1TD
    tokens = list(pictures.values())
    slots = [start + i for start, picture in pictures.items() for i in range(len(picture))]
    return embeds_1TD.index_copy(1, uploaded(slots, device), torch.cat(tokens)[None].to(embeds_1TD))


def embed_elements(model: Moondream, elements: Sequence[Element]) -> Tensor:
    """[len(elements), 1, D]: one new position for each row of a decoding batch."""
    device = model.text.wte.device
    ids = uploaded([[e.token] for e in elements], device, torch.long)
    coords = [(i, e.values[0]) for i, e in enumerate(elements) if len(e.values) == 1]
    sizes = [(i, e.values) for i, e in enumerate(elements) if len(e.values) == 2]
    return _place_spatial(model, model.embed_tokens(ids), coords, sizes)


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

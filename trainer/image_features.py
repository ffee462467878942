"""Image tokens by the picture's content: each picture is encoded once, whoever asks.

The vision tower is frozen and has no adapter, so its output depends on the picture alone and is
shared by rollouts, inference and training of every finetune. What the device has no room for any
more stays on the host, and is copied back when it is asked for. Pictures are cut into tiles ahead
of need, in a thread, while the device is busy with others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from contract.skills import Pixels
from trainer.counters import Counters
from trainer.model.crops import Tiling, make_crops
from trainer.model.moondream import Moondream
from trainer.shelf import Shelf

DEFAULT_DEVICE_BYTES = 2 << 30
DEFAULT_HOST_BYTES = 8 << 30
MAX_PREPARED = 64
"""Pictures that may lie cut and not encoded; further ones are cut as these are used."""

Crops = tuple[np.ndarray, Tiling]


class ImageFeatures:
    """Two bounded tiers of image tokens, least recently used out first.

    Args:
        has_host_tier: Absent: wherever the device is not the host itself.
    """

    def __init__(
        self,
        model: Moondream,
        *,
        device_bytes: int = DEFAULT_DEVICE_BYTES,
        host_bytes: int = DEFAULT_HOST_BYTES,
        has_host_tier: bool | None = None,
        counters: Counters | None = None,
    ):
        self._model = model
        self._device = model.text.wte.device
        if has_host_tier is None:
            has_host_tier = self._device.type != "cpu"
        self._has_host_tier = has_host_tier
        self._host: Shelf[Tensor] = Shelf(
            budget=host_bytes, size=_bytes_of, name="image_features_host", counters=counters
        )
        self._near: Shelf[Tensor] = Shelf(
            budget=device_bytes,
            size=_bytes_of,
            name="image_features",
            counters=counters,
            on_evicted=self._to_host if has_host_tier else None,
        )
        self._tilers = ThreadPoolExecutor(1, thread_name_prefix="tile")
        self._prepared: dict[str, Future[Crops]] = {}
        self._to_prepare: OrderedDict[str, Pixels] = OrderedDict()

    def prepare(self, image: Pixels) -> None:
        """Begin to cut a picture that will be asked for and is not known yet."""
        is_known = image.digest in self._near or image.digest in self._host
        if not (is_known or image.digest in self._prepared):
            self._to_prepare[image.digest] = image
            self._prepare_next()

    def forget(self, image: Pixels) -> None:
        """Whoever had it prepared does not ask for it; for others it is cut at its turn."""
        self._take_prepared(image.digest)

    def of(self, images: Sequence[Pixels]) -> dict[str, Tensor]:
        """Encode what is not known yet.

        Returns:
            [num_image_tokens, D] by digest, without gradient, in the model's dtype.
        """
        distinct = {image.digest: image for image in images}
        found: dict[str, Tensor] = {}
        for digest, image in distinct.items():
            tokens = self._near.get(digest)
            if tokens is None:
                tokens = self._fetched(digest)
                if tokens is None:
                    tokens = self._encode(image)
                self._near.put(digest, tokens)
            found[digest] = tokens
            self._take_prepared(digest)
        return found

    def give_up(self) -> None:
        """Free the device of what can be fetched or computed again."""
        self._near.drop()

    def _fetched(self, digest: str) -> Tensor | None:
        if not self._has_host_tier:
            return None
        kept = self._host.get(digest)
        return None if kept is None else kept.to(self._device)

    def _to_host(self, digest: object, tokens: Tensor) -> None:
        assert isinstance(digest, str)
        self._host.put(digest, tokens.cpu())

    @torch.no_grad()
    def _encode(self, image: Pixels) -> Tensor:
        prepared = self._take_prepared(image.digest)
        crops = self._cut(image) if prepared is None else prepared.result()
        return self._model.vision.encode_images([crops])[0]

    def _take_prepared(self, digest: str) -> Future[Crops] | None:
        """What was cut or is being cut of a picture; the next one that waits begins."""
        self._to_prepare.pop(digest, None)
        prepared = self._prepared.pop(digest, None)
        self._prepare_next()
        return prepared

    def _prepare_next(self) -> None:
        while self._to_prepare and len(self._prepared) < MAX_PREPARED:
            digest, image = self._to_prepare.popitem(last=False)
            self._prepared[digest] = self._tilers.submit(self._cut, image)

    def _cut(self, image: Pixels) -> Crops:
        pixels_HWC = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
        return make_crops(pixels_HWC, self._model.config.vision)


def _bytes_of(tokens: Tensor) -> int:
    return tokens.nbytes

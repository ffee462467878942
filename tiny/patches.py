"""What every patch shows: dense labels that teach the vision tower to see before it has to talk.

Linear heads on the image tokens predict, for each patch inside a shape's box, the kind, the colour
and the box of that shape. They exist in training only; the checkpoint does not hold them.

Letters: B pictures, P patches, C outputs of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.shapes import TRAINED_COLORS, TRAINED_KINDS, Scene

NOTHING = 0
NUM_KINDS = 1 + len(TRAINED_KINDS)
NUM_COLORS = 1 + len(TRAINED_COLORS)
BOX_WEIGHT = 10.0


class PatchHeads(nn.Linear):
    """One linear map from an image token to kind, colour and box."""

    def __init__(self, dim: int):
        super().__init__(dim, NUM_KINDS + NUM_COLORS + 4)

    def loss(self, image_BPD: Tensor, labels_BPC: Tensor) -> Tensor:
        """Cross-entropy of kind and colour, and smooth L1 of (x, y, width, height) on shapes.

        Args:
            labels_BPC: [B, P, 6], see `patch_labels`.
        """
        kind, color, box = self(image_BPD).split((NUM_KINDS, NUM_COLORS, 4), dim=-1)
        kinds = labels_BPC[..., 0].long()
        is_shape = kinds != NOTHING
        loss = F.cross_entropy(kind.flatten(0, 1), kinds.flatten())
        loss = loss + F.cross_entropy(color.flatten(0, 1), labels_BPC[..., 1].long().flatten())
        return loss + BOX_WEIGHT * F.smooth_l1_loss(
            box[is_shape], labels_BPC[..., 2:][is_shape], beta=0.05
        )


def patch_labels(scenes: Sequence[Scene], side: int) -> Tensor:
    """[B, side * side, 6] float32: kind, colour, then centre and size of the box around a patch.

    A patch belongs to the shape whose box holds its centre; 0 is nothing.
    """
    middle = (np.arange(side) + 0.5) / side
    y, x = (grid.ravel() for grid in np.meshgrid(middle, middle, indexing="ij"))
    labels = np.zeros((len(scenes), side * side, 6), dtype=np.float32)
    for row, scene in zip(labels, scenes, strict=True):
        for shape in scene.shapes:
            x_min, y_min, x_max, y_max = shape.box
            inside = (x >= x_min) & (x <= x_max) & (y >= y_min) & (y <= y_max)
            row[inside] = (
                1 + TRAINED_KINDS.index(shape.kind),
                1 + TRAINED_COLORS.index(shape.color),
                *shape.center,
                x_max - x_min,
                y_max - y_min,
            )
    return torch.from_numpy(labels)

"""From crops to image tokens: a tower over each crop, tiles stitched and pooled, a projection.

Letters: M images, N crops, C channels, G patches along a side of a crop, P patches of a crop
(G * G), W tower width, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trainer.model.config import VisionConfig
from trainer.model.crops import Tiling
from trainer.model.mlp import DenseMlp


class VisionAttention(nn.Module):
    """Attention of every patch of a crop to every other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.n_heads = config.enc_n_heads
        self.qkv = nn.Linear(config.enc_dim, 3 * config.enc_dim)
        self.proj = nn.Linear(config.enc_dim, config.enc_dim)

    def forward(self, x_NPW: torch.Tensor) -> torch.Tensor:
        num_crops, num_patches, width = x_NPW.shape
        qkv = self.qkv(x_NPW).view(num_crops, num_patches, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(num_crops, num_patches, width))


class VisionBlock(nn.Module):
    """x + attn(ln1 x), then x + mlp(ln2 x)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.enc_dim, eps=1e-5)
        self.attn = VisionAttention(config)
        self.ln2 = nn.LayerNorm(config.enc_dim, eps=1e-5)
        self.mlp = DenseMlp(config.enc_dim, config.enc_ff_dim, config.enc_dim)

    def forward(self, x_NPW: torch.Tensor) -> torch.Tensor:
        x_NPW = x_NPW + self.attn(self.ln1(x_NPW))
        return x_NPW + self.mlp(self.ln2(x_NPW))


class VisionModel(nn.Module):
    """Tower, stitching and projection."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch_values = config.in_channels * config.enc_patch_size**2
        self.patch_emb = nn.Linear(patch_values, config.enc_dim)
        self.pos_emb = nn.Parameter(torch.empty(1, config.num_image_tokens, config.enc_dim))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.enc_n_layers))
        self.post_ln = nn.LayerNorm(config.enc_dim, eps=1e-5)
        self.proj_mlp = DenseMlp(2 * config.enc_dim, config.proj_inner_dim, config.proj_out_dim)

    def encode_images(self, images: Sequence[tuple[np.ndarray, Tiling]]) -> torch.Tensor:
        """Turn pictures into image tokens, all crops of all pictures in one pass through the tower.

        Args:
            images: Crops and tiling of every picture, as `make_crops` returns them.

        Returns:
            [M, P, D]; the same number of tokens whatever the size of a picture.

        Raises:
            ValueError: No picture, or crops that do not fit their tiling.
        """
        if not images:
            raise ValueError("encode_images got no image")
        needed, num_needed = [], []
        for crops_NHWC, (rows, cols) in images:
            if len(crops_NHWC) != 1 + rows * cols:
                raise ValueError(
                    f"{len(crops_NHWC)} crops do not fit a tiling of {rows} x {cols}, "
                    f"wanted {1 + rows * cols}"
                )
            # under (1, 1) the only tile is the whole picture again: look at it once
            kept = crops_NHWC[:1] if (rows, cols) == (1, 1) else crops_NHWC
            needed.append(kept)
            num_needed.append(len(kept))
        x_NPW = self.tower(self.normalise(np.concatenate(needed)))
        features = []
        for x_PW, (_, tiling) in zip(x_NPW.split(num_needed), images, strict=True):
            pooled_PW = x_PW[0] if tiling == (1, 1) else self.stitch(x_PW[1:], tiling)
            features.append(torch.cat([x_PW[0], pooled_PW], dim=-1))
        return self.proj_mlp(torch.stack(features))

    def normalise(self, crops_NHWC: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W, C] to [-1, 1] in the model's dtype: x / 255, - 0.5, / 0.5."""
        dtype = torch.bfloat16 if self.config.crop_dtype == "bfloat16" else self.pos_emb.dtype
        x = torch.from_numpy(np.ascontiguousarray(crops_NHWC)).to(self.pos_emb.device).to(dtype)
        return x.div_(255).sub_(0.5).div_(0.5).to(self.pos_emb.dtype)

    def tower(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Normalised crops [N, H, W, C] to patch features [N, P, W]."""
        x_NPW = self.patch_emb(self.patchify(x_NHWC)) + self.pos_emb
        for block in self.blocks:
            x_NPW = block(x_NPW)
        return self.post_ln(x_NPW)

    def patchify(self, x_NHWC: torch.Tensor) -> torch.Tensor:
        """Cut crops into patches [N, P, C * patch * patch], ordered by channel, row, column."""
        side, patch = self.config.grid_side, self.config.enc_patch_size
        num_crops, _, _, channels = x_NHWC.shape
        x = x_NHWC.view(num_crops, side, patch, side, patch, channels)
        return x.permute(0, 1, 3, 5, 2, 4).reshape(num_crops, side * side, channels * patch * patch)

    def stitch(self, tiles_NPW: torch.Tensor, tiling: Tiling) -> torch.Tensor:
        """Lay the tiles side by side without inner margins, and pool the map to one crop's grid.

        Pooling runs in float32 at least.

        Args:
            tiles_NPW: [rows * cols, P, W].

        Returns:
            [P, W].
        """
        rows, cols = tiling
        side, margin = self.config.grid_side, self.config.overlap_margin
        tiles = tiles_NPW.view(rows, cols, side, side, -1)
        bands = []
        for row in range(rows):
            top, bottom = _kept(row, rows, side, margin)
            pieces = []
            for col in range(cols):
                left, right = _kept(col, cols, side, margin)
                pieces.append(tiles[row, col, top:bottom, left:right])
            bands.append(torch.cat(pieces, dim=1))
        map_HWW = torch.cat(bands, dim=0).to(torch.promote_types(tiles_NPW.dtype, torch.float32))
        pooled_WGG = functional.adaptive_avg_pool2d(map_HWW.permute(2, 0, 1), side)
        return pooled_WGG.permute(1, 2, 0).reshape(side * side, -1).to(tiles_NPW.dtype)


def _kept(index: int, count: int, side: int, margin: int) -> tuple[int, int]:
    """The patches a tile contributes in one direction: all but margins, which outer tiles keep."""
    return (0 if index == 0 else margin), (side if index == count - 1 else side - margin)

"""Coordinates and sizes in and out of the text model's width.

Encoders turn a value into an embedding that stands in for the coordinate or size token; decoders
read bins from the raw hidden state that emitted such a token.

Letters: D width, K bins.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.model.config import NUM_BINS, RegionConfig
from trainer.model.mlp import DenseMlp


def fourier_features(values: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """cat[cos f, sin f] with f = (2 pi v) @ w.

    Args:
        values: [..., n], n = 1 for a coordinate, 2 for (width, height).
        frequencies: [n, features / 2].

    Returns:
        [..., features] in the dtype of the inputs.
    """
    angle = (2 * math.pi * values) @ frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class RegionModel(nn.Module):
    """Encoders and decoders of coordinates and sizes."""

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config
        self.coord_features = nn.Parameter(torch.empty(1, config.coord_feat_dim // 2))
        self.size_features = nn.Parameter(torch.empty(2, config.size_feat_dim // 2))
        self.coord_encoder = nn.Linear(config.coord_feat_dim, config.dim)
        self.size_encoder = nn.Linear(config.size_feat_dim, config.dim)
        self.ln = nn.LayerNorm(config.dim, eps=1e-5) if config.use_ln else None
        self.coord_decoder = _decoder(config, config.coord_out_dim)
        self.size_decoder = _decoder(config, config.size_out_dim)

    def encode_coord(self, values: torch.Tensor) -> torch.Tensor:
        """Coordinates [...], 0 to 1, to embeddings [..., D]; cast to the model's dtype first."""
        values = values.to(self.coord_features)[..., None]
        return self.coord_encoder(fourier_features(values, self.coord_features))

    def encode_size(self, values_wh: torch.Tensor) -> torch.Tensor:
        """(width, height) [..., 2] to embeddings [..., D]; values as in `encode_coord`."""
        return self.size_encoder(
            fourier_features(values_wh.to(self.size_features), self.size_features)
        )

    def coord_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Raw hidden states [..., D] to bin logits [..., K]."""
        return self.coord_decoder(self._normed(hidden))

    def size_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Raw hidden states [..., D] to bin logits [..., 2, K], width before height."""
        return self.size_decoder(self._normed(hidden)).unflatten(-1, (2, NUM_BINS))

    def _normed(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if self.ln is None else self.ln(hidden)


def _decoder(config: RegionConfig, out_dim: int) -> nn.Module:
    if config.inner_dim is None:
        return nn.Linear(config.dim, out_dim)
    return DenseMlp(config.dim, config.inner_dim, out_dim, gelu=config.region_gelu)

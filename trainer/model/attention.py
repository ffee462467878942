"""Self-attention of the text model, with the tau gates of Moondream 3.

Letters: B rows, T new positions, S positions that may be attended to, D width, H heads,
d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from trainer.model.config import TextConfig
from trainer.model.kv_cache import AttentionCache, KVCache
from trainer.model.rope import rotate, rotation
from trainer.model.tree import Tree


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Everything about the positions of one forward pass that all layers share.

    Attributes:
        cos, sin: [B, T, 1, pairs] of the rotary angles, float32.
        log_position_BT: ln(position + 1), in the dtype of the tau position term.
        mask_B1TS: [B or 1, 1, T, S] boolean, True where attention is allowed; None together with
            `is_causal`, or for one new position that sees everything.
        is_causal: Whether a plain causal mask replaces `mask_B1TS`.
        prefix_len: Where it is not 0, positions below it see one another, later ones all before
            them; there is no mask then.
        tree: Of a stream of sequences that share their beginnings; it says who sees whom.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    log_position_BT: torch.Tensor
    mask_B1TS: torch.Tensor | None
    is_causal: bool
    prefix_len: int = 0
    tree: Tree | None = None

    def mask_of(self, wanted_B: torch.Tensor, num_slots: int) -> torch.Tensor:
        """[B, 1, 1, S] what one position of each row may attend to, of a sequence from its start.

        Args:
            wanted_B: [B] int64, a position of each row.
        """
        if self.mask_B1TS is None:
            slots = torch.arange(num_slots, device=wanted_B.device)
            return (slots <= wanted_B[:, None])[:, None, None]
        mask_BTS = self.mask_B1TS[:, 0].expand(len(wanted_B), -1, -1)
        return mask_BTS[torch.arange(len(wanted_B), device=wanted_B.device), wanted_B][
            :, None, None
        ]


def place(
    config: TextConfig,
    positions_BT: torch.Tensor,
    attention_mask_BTS: torch.Tensor | None,
    *,
    num_cached: int,
    dtype: torch.dtype,
    prefix_len: int = 0,
    tree: Tree | None = None,
) -> Placement:
    """Prepare what the layers share; without a mask, a position sees itself and all before it."""
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    cos, sin = rotation(
        positions_BT,
        theta=config.rope_theta,
        rotated_dim=config.rotated_dim,
        dtype=at_least_float32,
    )
    log_dtype = dtype if config.tau_position_dtype == "model" else at_least_float32
    num_new = positions_BT.shape[1]
    is_causal = attention_mask_BTS is None and num_cached == 0 and num_new > 1
    if attention_mask_BTS is None and num_cached > 0 and num_new > 1:
        slots = torch.arange(num_cached + num_new, device=positions_BT.device)
        attention_mask_BTS = (slots[None, :] <= slots[num_cached:, None])[None]
    return Placement(
        cos=cos,
        sin=sin,
        log_position_BT=torch.log(positions_BT.to(log_dtype) + 1),
        mask_B1TS=None if attention_mask_BTS is None else attention_mask_BTS[:, None],
        is_causal=is_causal,
        prefix_len=prefix_len,
        tree=tree,
    )


class Tau(nn.Module):
    """Factors on queries and values, from a token's content and position; 1 with zero weights."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gelu = config.tau_gelu
        self.wq = nn.Parameter(torch.empty(config.n_heads, 3 * config.dim))
        self.wv = nn.Parameter(torch.empty(config.n_heads, 3 * config.dim))
        self.alpha = nn.Parameter(torch.empty(config.n_heads))

    def forward(
        self,
        qkv_BTC: torch.Tensor,
        log_position_BT: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """f = gelu(qkv); tau = tanh(W f) + sigmoid(alpha ln(pos + 1)) + 0.5, for q and for v.

        Args:
            qkv_BTC: [B, T, 3D], before any factor and rotation.

        Returns:
            Two tensors [B, T, H].
        """
        feature_BTC = functional.gelu(qkv_BTC, approximate=self.gelu)
        alpha = self.alpha.to(log_position_BT.dtype)
        by_position_BTH = (torch.sigmoid(alpha * log_position_BT[..., None]) + 0.5).to(
            qkv_BTC.dtype
        )
        by_content_q_BTH = torch.tanh(functional.linear(feature_BTC, self.wq))
        by_content_v_BTH = torch.tanh(functional.linear(feature_BTC, self.wv))
        return by_content_q_BTH + by_position_BTH, by_content_v_BTH + by_position_BTH


class TextAttention(nn.Module):
    """qkv, tau on q and v, rotary positions on q and k, attention, output projection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)
        self.tau = Tau(config) if config.tau_attn else None

    def forward(
        self,
        x_BTD: torch.Tensor,
        placement: Placement,
        cache: AttentionCache | None,
        layer: int,
        wanted_B: torch.Tensor | None = None,
        *,
        at_ends: bool = False,
    ) -> torch.Tensor:
        """[B, T, D]; given the wanted position of each row, that alone: [B, 1, D].

        With `at_ends`, of a tree's stream, its ends alone: [1, E, D].
        """
        num_rows, num_new, dim = x_BTD.shape
        qkv_BTC = self.qkv(x_BTD)
        q_BTHd, k_BTHd, v_BTHd = qkv_BTC.view(
            num_rows, num_new, 3, self.n_heads, self.head_dim
        ).unbind(2)
        if self.tau is not None:
            tau_q_BTH, tau_v_BTH = self.tau(qkv_BTC, placement.log_position_BT)
            q_BTHd = q_BTHd * tau_q_BTH[..., None]
            v_BTHd = v_BTHd * tau_v_BTH[..., None]
        q_BHTd = rotate(q_BTHd, placement.cos, placement.sin).transpose(1, 2)
        k_BHSd = rotate(k_BTHd, placement.cos, placement.sin).transpose(1, 2)
        v_BHSd = v_BTHd.transpose(1, 2)
        mask_B1TS, is_causal = placement.mask_B1TS, placement.is_causal
        if wanted_B is not None:
            rows = torch.arange(num_rows, device=wanted_B.device)
            q_BHTd = q_BHTd[rows, :, wanted_B][:, :, None]
            mask_B1TS, is_causal = placement.mask_of(wanted_B, num_new), False
        if placement.tree is not None:
            out_HTd = placement.tree.attend(q_BHTd[0], k_BHSd[0], v_BHSd[0], at_ends=at_ends)
            out_BHTd = out_HTd[None]
        elif placement.prefix_len and wanted_B is None:
            if isinstance(cache, KVCache):
                k_BHSd, v_BHSd = cache.write(layer, k_BHSd, v_BHSd)
            out_BHTd = _attend_prefix_lm(q_BHTd, k_BHSd, v_BHSd, placement.prefix_len)
        elif cache is not None:
            out_BHTd = cache.attend(
                layer,
                q_BHTd,
                k_BHSd,
                v_BHSd,
                mask_B1TS=mask_B1TS,
                is_causal=is_causal,
            )
        else:
            out_BHTd = functional.scaled_dot_product_attention(
                q_BHTd,
                k_BHSd,
                v_BHSd,
                attn_mask=mask_B1TS,
                is_causal=is_causal,
            )
        return self.proj(out_BHTd.transpose(1, 2).reshape(num_rows, -1, dim))


def _attend_prefix_lm(
    q_BHTd: torch.Tensor, k_BHTd: torch.Tensor, v_BHTd: torch.Tensor, prefix_len: int
) -> torch.Tensor:
    """Attention by structure: the prefix needs no mask, only the few positions behind it do.

    Returns:
        [B, H, T, d].
    """
    end = min(prefix_len, q_BHTd.shape[2])
    inside = slice(0, end)
    prefix_BHTd = functional.scaled_dot_product_attention(
        q_BHTd[:, :, inside], k_BHTd[:, :, inside], v_BHTd[:, :, inside]
    )
    slots = torch.arange(q_BHTd.shape[2], device=q_BHTd.device)
    rest_BHTd = functional.scaled_dot_product_attention(
        q_BHTd[:, :, end:], k_BHTd, v_BHTd, attn_mask=slots <= slots[end:, None]
    )
    return torch.cat((prefix_BHTd, rest_BHTd), dim=2)

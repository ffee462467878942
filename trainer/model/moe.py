"""The mixture-of-experts MLP of Moondream 3.

Tokens are sorted by expert, every expert multiplies its own slice, and the results go back to their
tokens. Moving rows is done by gathers in both directions of differentiation, so results do not
depend on the order in which threads add.

Letters: B rows, T positions, N tokens (B * T), D width, E experts, K experts per token,
I inner width of an expert, P adapter rank per expert, S slots (N * K), one per token and expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from trainer.model.config import MoeConfig
from trainer.model.grouped import Groups, grouped_linear, whole_strides
from trainer.model.lora_hook import AdapterRows, LayerAdapter


def widened(weight_fp8: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """fp8 weights [..., out, in] times their scale [..., out] per output row, in float32."""
    return weight_fp8.float() * scale[..., None]


class ExpertWeights(nn.Module):
    """One matrix per expert, [E, out, in], without bias; in fp8 with a scale per row if so kept."""

    def __init__(self, num_experts: int, out_dim: int, in_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, out_dim, in_dim))
        self.register_buffer("scale", None, persistent=False)
        self.scale: torch.Tensor | None

    def keep_fp8(self, weight_fp8: torch.Tensor, scale: torch.Tensor) -> None:
        """Take frozen fp8 weights [E, out, in] and their float32 scales [E, out]."""
        self.weight = nn.Parameter(weight_fp8, requires_grad=False)
        self.scale = scale

    def forward(self, x_S: torch.Tensor, experts: Groups) -> torch.Tensor:
        """Multiply each expert's slots by its matrix: [S, in], sorted by expert, to [S, out].

        fp8 matrices are widened when they are taken, one after the other.
        """
        if self.scale is None:
            return grouped_linear(x_S, self.weight, experts)
        return grouped_linear(x_S, _Widening(self.weight, self.scale, x_S.dtype), experts)


class _Widening(Sequence[torch.Tensor]):
    """Matrices that exist only while they are used."""

    def __init__(self, weight_fp8: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> None:
        self._weight, self._scale, self._dtype = weight_fp8, scale, dtype

    def __len__(self) -> int:
        return len(self._weight)

    def __getitem__(self, expert: int) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] -- no slices
        return widened(self._weight[expert], self._scale[expert]).to(self._dtype)


class MoeMlp(nn.Module):
    """Route each token to K experts and add their outputs, weighted by a softmax over the K."""

    def __init__(self, dim: int, config: MoeConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.experts_per_token = config.experts_per_token
        self.router = nn.Linear(dim, config.num_experts)
        self.fc1 = ExpertWeights(config.num_experts, 2 * config.expert_inner_dim, dim)
        self.fc2 = ExpertWeights(config.num_experts, dim, config.expert_inner_dim)

    def forward(
        self, x_BTD: torch.Tensor, adapter: LayerAdapter | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the experts.

            l = router(x);  S = top K of l;  p = softmax(l[S]) in float32, cast back
            [h | g] = W1_e x;  a = gelu_erf(h) * (g + 1);  y = sum over e in S of p_e W2_e a

        An adapter adds B_up A_up x to [h | g] and B_down A_down a to the expert's output, before
        p_e weighs it.

        Returns:
            [B, T, D] output and [B, T, E] router logits.
        """
        logits_BTE = self.router(x_BTD)
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        top_NK, expert_NK = logits_BTE.reshape(-1, self.num_experts).topk(
            self.experts_per_token, dim=-1
        )
        at_least_float32 = torch.promote_types(x_ND.dtype, torch.float32)
        share_NK = torch.softmax(top_NK, dim=-1, dtype=at_least_float32).to(x_ND.dtype)

        expert_S = expert_NK.reshape(-1)
        slot_order_S = torch.argsort(expert_S, stable=True)
        slot_rank_S = torch.empty_like(slot_order_S)
        slot_rank_S[slot_order_S] = torch.arange(len(slot_order_S), device=x_ND.device)
        slots = _Slots(
            experts=Groups.of(expert_S[slot_order_S], self.num_experts),
            row_S=slot_order_S // (self.experts_per_token * x_BTD.shape[1]),
        )

        x_SD = _SpreadToSlots.apply(x_ND, slot_order_S, slot_rank_S, self.experts_per_token)
        hidden = self.fc1(x_SD, slots.experts)
        if adapter is not None:
            hidden += _low_rank(x_SD, adapter.up_a, adapter.up_b, adapter.rows, slots)
        value, gate = hidden.chunk(2, dim=-1)
        activated = functional.gelu(value) * (gate + 1)
        y_SD = self.fc2(activated, slots.experts)
        if adapter is not None:
            y_SD += _low_rank(activated, adapter.down_a, adapter.down_b, adapter.rows, slots)
        y_NKD = _ReorderSlots.apply(y_SD, slot_rank_S, slot_order_S).view(
            -1, self.experts_per_token, y_SD.shape[-1]
        )
        y_ND = torch.matmul(share_NK.unsqueeze(1), y_NKD).squeeze(1)
        return y_ND.view_as(x_BTD), logits_BTE


@dataclass(frozen=True, kw_only=True)
class _Slots:
    """Slots sorted by expert: whose they are, and [S] which row of the batch each came from."""

    experts: Groups
    row_S: torch.Tensor


def _low_rank(
    x_S: torch.Tensor,
    a_EPI: torch.Tensor,
    b_EOP: torch.Tensor,
    rows: AdapterRows | None,
    slots: _Slots,
) -> torch.Tensor:
    """B_e (A_e x) of each slot.

    With several adapters their ranks stand side by side: a slot is multiplied by all, and what is
    not of its row's adapter is put to zero in between. That is a few columns more of a product
    whose cost is that of reading the factors; slots need no second order, and no factor is copied.
    """
    a_EPI, b_EOP = a_EPI.to(x_S.dtype), b_EOP.to(x_S.dtype)
    if missing := -a_EPI.shape[1] % whole_strides(x_S.dtype):  # a stack is filled up already
        a_EPI = functional.pad(a_EPI, (0, 0, 0, missing))
        b_EOP = functional.pad(b_EOP, (0, missing))
    inner_SP = grouped_linear(x_S, a_EPI, slots.experts)
    if rows is not None:
        inner_SP = inner_SP.masked_fill(rows.is_foreign_BP.index_select(0, slots.row_S), 0)
    return grouped_linear(inner_SP, b_EOP, slots.experts)


class _SpreadToSlots(torch.autograd.Function):
    """Copy each token's row to its K slots; backward adds the K rows in a fixed order."""

    @staticmethod
    def forward(ctx, x_ND, slot_order_S, slot_rank_S, experts_per_token):
        ctx.save_for_backward(slot_rank_S)
        ctx.experts_per_token = experts_per_token
        return x_ND.index_select(0, slot_order_S // experts_per_token)

    @staticmethod
    def backward(ctx, grad_SD):  # pyright: ignore[reportIncompatibleMethodOverride] -- one output
        (slot_rank_S,) = ctx.saved_tensors
        grad_NKD = grad_SD.index_select(0, slot_rank_S).view(
            -1, ctx.experts_per_token, grad_SD.shape[-1]
        )
        return grad_NKD.sum(1), None, None, None


class _ReorderSlots(torch.autograd.Function):
    """Permute rows; backward applies the inverse permutation as a gather."""

    @staticmethod
    def forward(ctx, y_SD, order_S, inverse_S):
        ctx.save_for_backward(inverse_S)
        return y_SD.index_select(0, order_S)

    @staticmethod
    def backward(ctx, grad_SD):  # pyright: ignore[reportIncompatibleMethodOverride] -- one output
        (inverse_S,) = ctx.saved_tensors
        return grad_SD.index_select(0, inverse_S), None, None

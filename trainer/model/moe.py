"""The mixture-of-experts MLP of Moondream 3.

Tokens are sorted by expert, every expert that got any multiplies its own slice, and the results go
back to their tokens. Moving rows is done by gathers in both directions of differentiation, so
results do not depend on the order in which threads add.

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

    def forward(
        self,
        x_S: torch.Tensor,
        counts: list[int],
        a_E: tuple[torch.Tensor, ...] | None = None,
        b_E: tuple[torch.Tensor, ...] | None = None,
    ) -> torch.Tensor:
        """Multiply each expert's slice of the slots by its matrix, low-rank factors included.

        Args:
            x_S: [S, in], sorted by expert.
            counts: Slots per expert, E of them.
            a_E, b_E: E matrices [P, in] and [out, P], or None.

        Returns:
            [S, out].
        """
        matrices = self._matrices(x_S.dtype)
        pieces = []
        for expert, x in enumerate(x_S.split(counts)):
            if x.shape[0] == 0:
                continue
            y = functional.linear(x, matrices[expert])
            if a_E is not None and b_E is not None:
                y = y + functional.linear(functional.linear(x, a_E[expert]), b_E[expert])
            pieces.append(y)
        return torch.cat(pieces)

    def _matrices(self, dtype: torch.dtype) -> Sequence[torch.Tensor]:
        """E matrices [out, in] in `dtype`; fp8 ones are widened when they are taken."""
        # unbind, not indexing: its backward stacks the E gradients once, indexing adds E full ones
        if self.scale is None:
            return self.weight.unbind(0)
        return _Widening(self.weight, self.scale, dtype)


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
        counts = torch.bincount(expert_S, minlength=self.num_experts).tolist()

        x_SD = _SpreadToSlots.apply(x_ND, slot_order_S, slot_rank_S, self.experts_per_token)
        slots = _Slots(
            expert_S=expert_S[slot_order_S],
            row_S=slot_order_S // (self.experts_per_token * x_BTD.shape[1]),
        )
        hidden = self._raised(x_SD, counts, adapter, slots)
        value, gate = hidden.chunk(2, dim=-1)
        activated = functional.gelu(value) * (gate + 1)
        y_SD = self._lowered(activated, counts, adapter, slots)
        y_NKD = _ReorderSlots.apply(y_SD, slot_rank_S, slot_order_S).view(
            -1, self.experts_per_token, y_SD.shape[-1]
        )
        y_ND = torch.matmul(share_NK.unsqueeze(1), y_NKD).squeeze(1)
        return y_ND.view_as(x_BTD), logits_BTE

    def _raised(
        self, x_S: torch.Tensor, counts: list[int], adapter: LayerAdapter | None, slots: _Slots
    ) -> torch.Tensor:
        if adapter is None:
            return self.fc1(x_S, counts)
        a, b = adapter.up_a, adapter.up_b
        return _adapted(self.fc1, x_S, counts, a, b, adapter.rows, slots)

    def _lowered(
        self, x_S: torch.Tensor, counts: list[int], adapter: LayerAdapter | None, slots: _Slots
    ) -> torch.Tensor:
        if adapter is None:
            return self.fc2(x_S, counts)
        a, b = adapter.down_a, adapter.down_b
        return _adapted(self.fc2, x_S, counts, a, b, adapter.rows, slots)


@dataclass(frozen=True)
class _Slots:
    """Whose slots stand where: [S] expert, and [S] row of the batch."""

    expert_S: torch.Tensor
    row_S: torch.Tensor


def _adapted(
    experts: ExpertWeights,
    x_S: torch.Tensor,
    counts: list[int],
    a: torch.Tensor,
    b: torch.Tensor,
    rows: AdapterRows | None,
    slots: _Slots,
) -> torch.Tensor:
    """The experts' matrices with low-rank factors: one adapter for all rows, or one per row."""
    a, b = a.to(x_S.dtype), b.to(x_S.dtype)
    if rows is None:
        return experts(x_S, counts, a.unbind(0), b.unbind(0))
    of_slot_S = rows.adapter_B[slots.row_S], slots.expert_S
    inner_SP = torch.bmm(a[of_slot_S], x_S[..., None])
    return experts(x_S, counts) + torch.bmm(b[of_slot_S], inner_SP)[..., 0]


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

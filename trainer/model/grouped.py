"""Rows that stand in groups one behind the other, each group multiplied by its own matrix.

torch's grouped product takes all groups in one call and reads their ends where the rows are, so the
host waits for nothing. Where it does not serve, the groups are multiplied one by one; for that the
host has to know their sizes, which on a GPU means to wait until the device has come so far.

Letters: S rows, G groups, I width in, O width out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional

STRIDE_BYTES = 16
"""The grouped product wants matrices to start at multiples of this, and each of their rows."""

CUDA_MAJORS = (9, 10)
"""Devices that have a kernel for it (Hopper, Blackwell); on others it reads the ends by itself."""


@dataclass(frozen=True)
class Groups:
    """Where the groups stand: [G] int32, the row behind the last of each."""

    ends_G: torch.Tensor

    @classmethod
    def of(cls, group_S: torch.Tensor, num_groups: int) -> Groups:
        """The groups of rows whose group numbers are [S] int64, ascending."""
        numbers_G = torch.arange(num_groups, device=group_S.device)
        return cls(torch.searchsorted(group_S, numbers_G, right=True, out_int32=True))

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each group. The first to ask waits for the device."""
        ends = self.ends_G.tolist()
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def whole_strides(dtype: torch.dtype) -> int:
    """Numbers of this dtype in `STRIDE_BYTES`."""
    return STRIDE_BYTES // dtype.itemsize


def grouped_linear(
    x_SI: torch.Tensor, matrices: torch.Tensor | Sequence[torch.Tensor], groups: Groups
) -> torch.Tensor:
    """Multiply the rows of each group by its matrix, in one call where that is possible.

    Args:
        x_SI: [S, I]; S is at least one.
        matrices: [G, O, I]; or G of [O, I], which are taken one by one, those of empty groups not.

    Returns:
        [S, O].
    """
    if isinstance(matrices, torch.Tensor):
        if _is_one_call(x_SI, matrices):
            return _GroupedLinear.apply(x_SI, matrices, groups.ends_G)
        # unbind, not indexing: its backward stacks the G gradients once, indexing adds G full ones
        matrices = matrices.unbind(0)
    return torch.cat(
        [
            functional.linear(x, matrices[group])
            for group, x in enumerate(x_SI.split(groups.sizes))
            if x.shape[0] > 0
        ]
    )


def _is_one_call(x_SI: torch.Tensor, matrices_GOI: torch.Tensor) -> bool:
    """Whether the grouped product takes these and leaves the ends of the groups on the device."""
    if any(tensor.data_ptr() % STRIDE_BYTES for tensor in (x_SI, matrices_GOI)):
        return False  # as a weight may lie in a mapped file
    if any(width % whole_strides(x_SI.dtype) for width in matrices_GOI.shape[1:]):
        return False
    if x_SI.device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(x_SI.device)
        return x_SI.dtype == torch.bfloat16 and major in CUDA_MAJORS
    return x_SI.device.type == "cpu" and x_SI.dtype in (torch.float32, torch.bfloat16)


class _GroupedLinear(torch.autograd.Function):
    """One call for all groups, in both directions of differentiation.

    The backward pass of torch is not used: it refuses gradients that are not contiguous, and on
    some devices the gradient of an empty group's matrix is not zero (pytorch issue 172439).
    """

    @staticmethod
    def forward(ctx, x_SI, matrices_GOI, ends_G):
        ctx.save_for_backward(x_SI, matrices_GOI, ends_G)
        return functional.grouped_mm(x_SI, matrices_GOI.transpose(1, 2), offs=ends_G)

    @staticmethod
    def backward(ctx, grad_SO):  # pyright: ignore[reportIncompatibleMethodOverride] -- one output
        x_SI, matrices_GOI, ends_G = ctx.saved_tensors
        grad_SO = grad_SO.contiguous()
        grad_SI = grad_GOI = None
        if ctx.needs_input_grad[0]:
            grad_SI = functional.grouped_mm(grad_SO, matrices_GOI, offs=ends_G)
        if ctx.needs_input_grad[1]:
            grad_GOI = functional.grouped_mm(grad_SO.t(), x_SI, offs=ends_G)
            is_empty_G = ends_G == functional.pad(ends_G[:-1], (1, 0))
            grad_GOI = grad_GOI.masked_fill(is_empty_G[:, None, None], 0)
        return grad_SI, grad_GOI, None

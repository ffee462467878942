"""A LoRA on 64 experts at decode: ours on the routed rows, PEFT's on every expert's weights.

One expert layer, 64 experts, 8 per token, width 512, inner width 256, rank 4 per expert, 16 tokens.
PEFT's `target_parameters` writes W + B A for all experts at each forward.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from trainer.adapters.lora import LoraLayer
from trainer.model.config import MoeConfig
from trainer.model.moe import MoeMlp

DIM, INNER, EXPERTS, ACTIVE, RANK, TOKENS = 512, 256, 64, 8, 4, 16


class ExpertLayer:
    """The same layer and the same factors on both sides."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = MoeConfig(
            num_experts=EXPERTS, start_layer=0, experts_per_token=ACTIVE, expert_inner_dim=INNER
        )
        self.plain = MoeMlp(DIM, config).eval()
        for parameter in self.plain.parameters():
            nn.init.normal_(parameter, std=0.05)
        self.plain.requires_grad_(False)
        shapes = {
            "up_a": (EXPERTS, RANK, DIM), "up_b": (EXPERTS, 2 * INNER, RANK),
            "down_a": (EXPERTS, RANK, INNER), "down_b": (EXPERTS, DIM, RANK),
        }  # fmt: skip
        self.factors = LoraLayer(**{n: 0.1 * torch.randn(s) for n, s in shapes.items()})
        self.x_1TD = torch.randn(1, TOKENS, DIM)
        self.wrapped = self._wrapped()

    def _wrapped(self) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        holder = nn.Module()
        holder.mlp = _copy(self.plain)
        lora = LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=[],
            target_parameters=["mlp.fc1.weight", "mlp.fc2.weight"],
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(holder, lora).eval().requires_grad_(False)
        for name, tensor in model.named_parameters():
            if "lora_" not in name:
                continue
            side = "up" if ".fc1." in name else "down"
            if "lora_A" in name:
                tensor.copy_(getattr(self.factors, f"{side}_a").flatten(0, 1))
            else:
                tensor.copy_(getattr(self.factors, f"{side}_b").permute(1, 2, 0).flatten(1))
        return model.base_model.model.mlp

    @torch.no_grad()
    def ours(self) -> Tensor:
        return self.plain(self.x_1TD, self.factors)[0]

    @torch.no_grad()
    def theirs(self) -> Tensor:
        return self.wrapped(self.x_1TD)[0]

    def check(self) -> float:
        """The largest difference of the two, relative to the largest output."""
        ours = self.ours()
        worst = float((ours - self.theirs()).abs().max() / ours.abs().max())
        assert worst < 1e-5, f"the sides differ by {worst}"
        return worst


def _copy(module: MoeMlp) -> MoeMlp:
    made = MoeMlp(DIM, MoeConfig(
        num_experts=EXPERTS, start_layer=0, experts_per_token=ACTIVE, expert_inner_dim=INNER
    ))  # fmt: skip
    made.load_state_dict(module.state_dict())
    return made

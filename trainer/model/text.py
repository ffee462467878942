"""The text model: embeddings in, raw hidden states out, and the language head beside it.

Letters: B rows, T new positions, S positions that may be attended to, D width, V vocabulary,
E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.model.attention import Placement, TextAttention, place
from trainer.model.config import TextConfig
from trainer.model.kv_cache import AttentionCache, KVCache
from trainer.model.lora_hook import LayerAdapter, TextAdapter
from trainer.model.mlp import DenseMlp
from trainer.model.moe import MoeMlp
from trainer.model.tree import Tree


class TextBlock(nn.Module):
    """Attention and MLP read the same normalised input, and both are added to x."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.ln = nn.LayerNorm(config.dim, eps=1e-5)
        self.attn = TextAttention(config)
        if config.moe is not None and config.is_expert_layer(index):
            self.mlp: MoeMlp | DenseMlp = MoeMlp(config.dim, config.moe)
        else:
            self.mlp = DenseMlp(config.dim, config.ff_dim, config.dim)

    def forward(
        self,
        x_BTD: torch.Tensor,
        placement: Placement,
        cache: AttentionCache | None,
        adapter: LayerAdapter | None,
        wanted_B: torch.Tensor | None = None,
        at_ends: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the new hidden state and, in an expert layer, the router logits [B, T, E].

        Given the wanted position of each row, only that is computed behind keys and values: T is 1.
        With `at_ends` the same holds of the ends of the placement's tree.
        """
        normed_BTD = self.ln(x_BTD)
        attended_BTD = self.attn(
            normed_BTD, placement, cache, self.index, wanted_B, at_ends=at_ends
        )
        if wanted_B is not None:
            x_BTD, normed_BTD = _at(x_BTD, wanted_B), _at(normed_BTD, wanted_B)
        elif at_ends and placement.tree is not None:
            ends_E = placement.tree.ends_E
            x_BTD, normed_BTD = x_BTD.index_select(1, ends_E), normed_BTD.index_select(1, ends_E)
        router_logits_BTE = None
        if isinstance(self.mlp, MoeMlp):
            mixed_BTD, router_logits_BTE = self.mlp(normed_BTD, adapter)
        else:
            mixed_BTD = self.mlp(normed_BTD, adapter)
        return x_BTD + attended_BTD + mixed_BTD, router_logits_BTE


class TextModel(nn.Module):
    """All text layers, the token embeddings and the language head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config, index) for index in range(config.n_layers))
        self.post_ln = nn.LayerNorm(config.dim, eps=1e-5)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def forward(
        self,
        embeds_BTD: torch.Tensor,
        *,
        positions_BT: torch.Tensor,
        attention_mask_BTS: torch.Tensor | None = None,
        cache: AttentionCache | None = None,
        adapter: TextAdapter | None = None,
        router_logits: list[torch.Tensor] | None = None,
        wanted_B: torch.Tensor | None = None,
        prefix_len: int = 0,
        tree: Tree | None = None,
        recompute: bool = False,
    ) -> torch.Tensor:
        """Run the layers.

        Args:
            embeds_BTD: [B, T, D] token, image and region embeddings.
            positions_BT: [B, T] int64, 0 at BOS; a single row serves all.
            attention_mask_BTS: [B or 1, T, S] boolean, True where position t may attend to slot s;
                S is the filled cache plus T. None: plain causal.
            cache: Read, and extended by T; sampling only.
            adapter: Low-rank corrections of the MLPs.
            router_logits: Where given, one tensor per expert layer is appended, [B, T, E], or of
                those positions alone whose hidden state is returned.
            wanted_B: [B] int64, the one position of each row whose hidden state is wanted, in a
                sequence from its start. The last layer then computes keys and values of all
                positions and nothing else of the others.
            prefix_len: For whole sequences, in place of the mask that `prefix_mask` makes of it.
            tree: The layout of a stream, which is one row; it stands for the mask, and what is
                wanted are its ends.
            recompute: Trade time for memory in training: keep only each layer's input, and run the
                layer again in the backward pass. Ignored where no gradient is wanted.

        Returns:
            [B, T, D], [B, 1, D] of the wanted positions, or [1, E, D] of the ends of a tree: the
            raw hidden state, before `post_ln`. The region heads read it as it is, `logits`
            normalises.

        Raises:
            ValueError: The mask or the positions do not fit the input.
        """
        num_cached = 0 if cache is None else cache.length
        if prefix_len and (attention_mask_BTS is not None or num_cached):
            raise ValueError("a prefix is of whole sequences, and replaces their mask")
        if tree is not None and (attention_mask_BTS is not None or cache is not None):
            raise ValueError("a tree is of whole sequences, and replaces mask and cache")
        self._check_shapes(embeds_BTD, positions_BT, attention_mask_BTS, num_cached)
        placement = place(
            self.config,
            positions_BT,
            attention_mask_BTS,
            num_cached=num_cached,
            dtype=embeds_BTD.dtype,
            prefix_len=prefix_len,
            tree=tree,
        )
        recompute = recompute and torch.is_grad_enabled() and cache is None
        hidden_BTD, last = embeds_BTD, len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            layer_adapter = None if adapter is None else adapter.layer(index)
            wanted = wanted_B if index == last else None
            at_ends = tree is not None and index == last
            arguments = (hidden_BTD, placement, cache, layer_adapter, wanted, at_ends)
            if recompute:
                hidden_BTD, router_logits_BTE = checkpoint(
                    block, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden_BTD, router_logits_BTE = block(*arguments)
            if router_logits is not None and router_logits_BTE is not None:
                if tree is not None and not at_ends:
                    router_logits_BTE = router_logits_BTE.index_select(1, tree.ends_E)
                router_logits.append(router_logits_BTE)
        if cache is not None:
            cache.advance(embeds_BTD.shape[1])
        return hidden_BTD

    def logits(self, hidden: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """lm_head(post_ln(hidden)) in the model's dtype.

        Args:
            hidden: [..., D] raw hidden states.
            rows: [R] int64 vocabulary ids; only their logits are computed, in this order.

        Returns:
            [..., V], or [..., R].
        """
        normed = self.post_ln(hidden)
        if rows is None:
            return self.lm_head(normed)
        return functional.linear(normed, self.lm_head.weight[rows], self.lm_head.bias[rows])

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] int64 ids to [..., D] embeddings."""
        return functional.embedding(ids, self.wte)

    def new_cache(self, num_rows: int, capacity: int) -> KVCache:
        """An empty cache on the model's device, in its dtype."""
        return KVCache.empty(
            self.config, num_rows, capacity, device=self.wte.device, dtype=self.wte.dtype
        )

    def _check_shapes(
        self,
        embeds_BTD: torch.Tensor,
        positions_BT: torch.Tensor,
        attention_mask_BTS: torch.Tensor | None,
        num_cached: int,
    ) -> None:
        num_rows, num_new, _ = embeds_BTD.shape
        if positions_BT.shape not in ((num_rows, num_new), (1, num_new)):
            raise ValueError(
                f"positions are {list(positions_BT.shape)}, wanted [{num_rows}, {num_new}]"
            )
        if attention_mask_BTS is not None:
            wanted = (num_new, num_cached + num_new)
            if attention_mask_BTS.dtype != torch.bool or attention_mask_BTS.shape[1:] != wanted:
                raise ValueError(
                    f"attention mask is {attention_mask_BTS.dtype} "
                    f"{list(attention_mask_BTS.shape)}, "
                    f"wanted bool [{num_rows}, {wanted[0]}, {wanted[1]}]"
                )


def _at(x_BTD: torch.Tensor, wanted_B: torch.Tensor) -> torch.Tensor:
    """[B, 1, D] one position of each row."""
    return x_BTD[torch.arange(len(wanted_B), device=wanted_B.device), wanted_B][:, None]


def block_mask(
    length: int, blocks: Sequence[tuple[int, int]], *, device: torch.device | str | None = None
) -> torch.Tensor:
    """The mask of a sequence with pictures: inside of a block all see one another.

    Args:
        length: T.
        blocks: Start and end of each; disjoint. Everything else is causal.

    Returns:
        [1, T, T] boolean, True where attention is allowed.
    """
    slots = torch.arange(length, device=device)
    may_see = slots[None, :] <= slots[:, None]
    for start, end in blocks:
        inside = (slots >= start) & (slots < end)
        may_see = may_see | (inside[None, :] & inside[:, None])
    return may_see[None]


def prefix_mask(
    length: int, prefix_len: int, *, device: torch.device | str | None = None
) -> torch.Tensor:
    """The prefix-LM mask: positions below `prefix_len` see each other, later ones are causal.

    Args:
        length: T.
        prefix_len: BOS and image tokens, 730 for the published models; 0 or 1 gives a plain causal
            mask.

    Returns:
        [1, T, T] boolean, True where attention is allowed.
    """
    return block_mask(length, [(0, prefix_len)], device=device)

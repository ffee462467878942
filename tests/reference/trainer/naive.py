"""Sampling and training once more, as plainly as the formulas read: one rollout at a time.

Nothing here is batched, cached, masked by tensors or shared with `trainer.sampling`,
`trainer.scoring`, `trainer.train_step`, `trainer.rl` or the skills. Of the trainer it uses the text
model and the region heads alone, which have their own references.
Sources: model-facts.md sections 3.4 and 4 to 7, performance.md 4.2, http-api.md 8.6, 8.7 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from contract.groups import RLGroup, SFTGroup
from contract.skills import ReturnedRollout, Target, TunableRequest
from tests.micro import pictures, tokenizer
from trainer.model.config import Family
from trainer.model.moondream import Moondream

END, ANSWER, THINKING, COORD, SIZE = 0, 3, 4, 5, 6
GROUND_START, GROUND_END = 7, 9

Draw = tuple[int, tuple[int, ...]]
"""A token and the bins drawn with it."""


class NaiveAdapter:
    """Factors by their names in the exchange format."""

    def __init__(self, model: Moondream, tensors: Mapping[str, Tensor]) -> None:
        moe = model.config.text.moe
        self.layers: dict[int, SimpleNamespace] = {}
        for name, tensor in tensors.items():
            _, kind, index, factor = name.split(".")
            layer = int(index) + (moe.start_layer if kind == "moe" and moe is not None else 0)
            setattr(self.layers.setdefault(layer, SimpleNamespace(rows=None)), factor, tensor)

    def layer(self, index: int) -> Any:
        return self.layers[index]


@dataclass
class Naive:
    """A model, the factors on it (None: the base), and its image tokens by digest."""

    model: Moondream
    tensors: Mapping[str, Tensor] | None
    features: Mapping[str, Tensor]

    @property
    def is_second(self) -> bool:
        return self.model.config.family is Family.MOONDREAM2

    def base(self) -> Naive:
        return Naive(self.model, None, self.features)

    def prompt(self, request: TunableRequest) -> list[tuple[int, tuple[float, ...]]]:
        """Tokens and values behind BOS and image."""
        encode = tokenizer().encode
        refs: list[tuple[int, tuple[float, ...]]] = []
        for ref in getattr(request, "spatial_refs", ()):
            if len(ref) == 2:
                refs += [(COORD, (ref[0],)), (COORD, (ref[1],))]
            else:
                refs += [(COORD, ((ref[0] + ref[2]) / 2,)), (COORD, ((ref[1] + ref[3]) / 2,))]
                refs += [(SIZE, (ref[2] - ref[0], ref[3] - ref[1]))]
        if request.skill == "query":
            opener = [THINKING if request.reasoning else ANSWER]
            before, text = [1, 10, 2], encode(request.question)
            after = [ANSWER, *opener] if self.is_second else opener
        elif request.skill == "point":
            before, text, after = [1, 17, 2], encode(" " + request.object), [ANSWER]
        else:
            before, text, after = [1, 15, 16, 2], encode(" " + request.object), [ANSWER]
        return [(t, ()) for t in before] + refs + [(t, ()) for t in (*text, *after)]

    def hidden(
        self, request: TunableRequest, draws: Sequence[Draw]
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """The hidden state and the router logits of each layer that every draw is made from, and
        those of the draw that would follow."""
        text, region = self.model.text, self.model.region
        image = None if request.image is None else self.features[pictures()[request.image].digest]
        rows = [text.wte[0]]
        num_prefix = 1 if image is None else 1 + len(image)
        rows += [] if image is None else list(image)
        inputs = self.prompt(request)
        for token, bins in draws:
            values: tuple[float, ...] = ()
            if token == COORD:
                values = (bins[0] / 1023,)
            elif token == SIZE:
                values = tuple(2.0 ** (b / 1023 * 10 - 10) for b in bins)
            inputs.append((token, values))
        for token, values in inputs:
            at = torch.tensor(values, dtype=torch.float64)
            if len(values) == 1:
                rows.append(region.encode_coord(at[0]))
            elif len(values) == 2:
                rows.append(region.encode_size(at))
            else:
                rows.append(text.wte[token])
        length = len(rows)
        mask = [
            [j <= i or (i < num_prefix and j < num_prefix) for j in range(length)]
            for i in range(length)
        ]
        router: list[Tensor] = []
        hidden = text(
            torch.stack(rows)[None],
            positions_BT=torch.arange(length)[None],
            attention_mask_BTS=torch.tensor(mask)[None],
            adapter=None if self.tensors is None else NaiveAdapter(self.model, self.tensors),
            router_logits=router,
        )
        first = length - len(draws) - 1
        return (
            [hidden[0, first + t] for t in range(len(draws) + 1)],
            [[layer[0, first + t] for layer in router] for t in range(len(draws) + 1)],
        )

    def allowed(self, request: TunableRequest, tokens: Sequence[int]) -> list[int]:
        """What may be drawn after `tokens`."""
        if request.skill == "detect":
            return ([COORD, END], [COORD], [SIZE])[len(tokens) % 3]
        if request.skill == "point":
            return ([COORD, END], [COORD])[len(tokens) % 2]
        forbidden: tuple[int, ...] = ()
        if self.is_second:
            is_thinking = request.reasoning and ANSWER not in tokens
            forbidden = (0, 6) if is_thinking else (3,)
        return [t for t in range(self.model.config.text.vocab_size) if t not in forbidden]

    def token_logits(self, hidden: Tensor, allowed: Sequence[int]) -> Tensor:
        return self.model.text.lm_head(self.model.text.post_ln(hidden))[list(allowed)]

    def bin_logits(self, hidden: Tensor, token: int) -> list[Tensor]:
        if token == COORD:
            return [self.model.region.coord_logits(hidden)]
        return list(self.model.region.size_logits(hidden)) if token == SIZE else []

    def terms(
        self, request: TunableRequest, draws: Sequence[Draw]
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Per draw the log-probabilities of its token (unless forced) and bins; router logits."""
        hidden, router = self.hidden(request, draws[:-1]) if draws else ([], [])
        terms: list[list[Tensor]] = []
        for t, (token, bins) in enumerate(draws):
            allowed = self.allowed(request, [token for token, _ in draws[:t]])
            own: list[Tensor] = []
            if len(allowed) > 1:
                logits = self.token_logits(hidden[t], allowed)
                own.append(logits[allowed.index(token)] - torch.logsumexp(logits, 0))
            for chosen, logits_K in zip(bins, self.bin_logits(hidden[t], token), strict=True):
                own.append(logits_K[chosen] - torch.logsumexp(logits_K, 0))
            terms.append(own)
        return terms, router

    def entropy(self, request: TunableRequest, draws: Sequence[Draw]) -> list[float]:
        """Of every distribution that something was drawn from."""
        hidden, _ = self.hidden(request, draws[:-1]) if draws else ([], [])
        found: list[float] = []
        for t, (token, _) in enumerate(draws):
            allowed = self.allowed(request, [token for token, _ in draws[:t]])
            logits = [self.token_logits(hidden[t], allowed)] if len(allowed) > 1 else []
            for chances in [
                torch.softmax(x, 0) for x in logits + self.bin_logits(hidden[t], token)
            ]:
                found.append(-sum(float(p) * math.log(float(p)) for p in chances))
        return found


# Sampling


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python integers."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            (first >> 32) ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def pick(logits: list[float], uniform: float, temperature: float, top_p: float) -> int:
    """Top-p and inversion of the cumulative distribution, in Python floats."""
    if temperature < 1e-4:
        return max(range(len(logits)), key=lambda i: (logits[i], -i))
    largest = max(logits)
    weights = [math.exp((x - largest) / temperature) for x in logits]
    total = math.fsum(weights)
    chances = [w / total for w in weights]
    kept: set[int] = set()
    before = 0.0
    for i in sorted(range(len(chances)), key=lambda i: (-chances[i], i)):
        if before > top_p:
            break
        kept.add(i)
        before += chances[i]
    target = uniform * math.fsum(chances[i] for i in kept)
    reached = 0.0
    for i in sorted(kept):
        reached += chances[i]
        if reached > target:
            return i
    return max(kept)


@dataclass
class NaiveTrace:
    draws: list[Draw] = field(default_factory=list)
    terms: list[list[float]] = field(default_factory=list)
    finish_reason: str = "length"


def naive_sample(
    naive: Naive,
    request: TunableRequest,
    *,
    seed: int,
    rollout: int,
    num_actions: int,
    temperature: float,
    top_p: float,
) -> NaiveTrace:
    """One rollout: the whole sequence anew for every draw."""
    trace = NaiveTrace()
    for t in range(num_actions):
        key = [seed & 0xFFFFFFFF, seed >> 32]
        uniform = [(w + 0.5) / 2**32 for w in philox([t, rollout, 0, 0], key)]
        hidden = naive.hidden(request, trace.draws)[0][-1]
        allowed = naive.allowed(request, [token for token, _ in trace.draws])
        logits = naive.token_logits(hidden, allowed)
        token = allowed[pick(logits.tolist(), uniform[0], temperature, top_p)]
        bins = tuple(
            pick(bin_logits.tolist(), uniform[1 + i], temperature, top_p)
            for i, bin_logits in enumerate(naive.bin_logits(hidden, token))
        )
        trace.draws.append((token, bins))
        if token == END:
            trace.finish_reason = "stop"
            break
    terms, _ = naive.terms(request, trace.draws)
    trace.terms = [[float(x) for x in own] for own in terms]
    return trace


# Training


def draws_of(tokens: Sequence[int], coords: Sequence[int], sizes: Sequence[Any]) -> list[Draw]:
    coord, size = iter(coords), iter(sizes)
    return [
        (t, (next(coord),) if t == COORD else tuple(next(size)) if t == SIZE else ())
        for t in tokens
    ]


def rollout_draws(rollout: ReturnedRollout) -> list[Draw]:
    """What the token fields of a whole rollout say."""
    tokens = list(rollout.thinking_tokens or ())
    tokens += [ANSWER] * bool(rollout.has_answer_separator)
    tokens += rollout.answer_tokens or ()
    tokens += [END] * (rollout.finish_reason == "stop")
    return draws_of(tokens, rollout.coords or (), rollout.sizes or ())


def rollout_logprobs(rollout: ReturnedRollout, draws: list[Draw]) -> list[float] | None:
    """The sampler's log-probability of every action."""
    given = rollout.logprobs
    if given is None:
        return None
    tokens = [*given["thinking"]]
    tokens += [given["separator"]] * bool(rollout.has_answer_separator)
    tokens += given["answer"]
    tokens += [given["stop"]] * (rollout.finish_reason == "stop")
    coords, sizes = iter(given["coords"]), iter(given["sizes"])
    result: list[float] = []
    for own, (token, _) in zip(tokens, draws, strict=True):
        extra = [next(coords)] if token == COORD else next(sizes) if token == SIZE else []
        result.append(own + sum(extra))
    return result


def coord_bin(value: float) -> int:
    return min(max(round(value * 1023), 0), 1023)


def size_bin(value: float) -> int:
    return min(max(round((math.log2(max(value, 2**-10)) + 10) / 10 * 1023), 0), 1023)


def target_draws(request: TunableRequest, target: Target) -> list[Draw]:
    """What a target teaches, the end token included."""
    encode = tokenizer().encode
    if target.skill == "detect":
        draws: list[Draw] = []
        for b in target.boxes:
            draws.append((COORD, (coord_bin((b.x_min + b.x_max) / 2),)))
            draws.append((COORD, (coord_bin((b.y_min + b.y_max) / 2),)))
            draws.append((SIZE, (size_bin(b.x_max - b.x_min), size_bin(b.y_max - b.y_min))))
        return [*draws, (END, ())]
    if target.skill == "point":
        centres = [(p.x, p.y) for p in target.points or ()]
        if target.points is None:
            boxes = target.boxes or ()
            centres = [((b.x_min + b.x_max) / 2, (b.y_min + b.y_max) / 2) for b in boxes]
        return [*((COORD, (coord_bin(v),)) for c in centres for v in c), (END, ())]
    draws = []
    if target.reasoning is not None:
        text, place = target.reasoning.text, 0
        for span in target.reasoning.grounding:
            draws += [(t, ()) for t in encode(text[place : span.start_idx])]
            draws.append((GROUND_START, ()))
            draws += [(t, ()) for t in encode(text[span.start_idx : span.end_idx])]
            draws += [(COORD, (coord_bin(v),)) for point in span.points for v in point]
            draws.append((GROUND_END, ()))
            place = span.end_idx
        draws += [(t, ()) for t in encode(text[place:])]
        draws.append((ANSWER, ()))
    return [*draws, *((t, ()) for t in encode(target.answer)), (END, ())]


@dataclass
class NaiveStep:
    loss: float
    gradients: dict[str, Tensor]
    grad_norm: float
    kl: float | None
    router_kl: float | None
    sft_loss: float | None
    clipped_ratios: list[float]
    ratios: list[float]
    entropy: float
    num_dropped: int


def deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def naive_advantages(
    groups: Sequence[RLGroup], scale: str, std_floor: float
) -> Iterator[list[float]]:
    everything = [r for group in groups for r in group.rewards]
    for group in groups:
        mean = sum(group.rewards) / len(group.rewards)
        divisor = {
            "none": 1.0,
            "group": deviation(group.rewards) + std_floor,
            "batch": deviation(everything) + std_floor,
        }[scale]
        if len(set(group.rewards)) == 1:
            yield [0.0] * len(group.rewards)
        else:
            yield [(r - mean) / divisor for r in group.rewards]


def naive_step(
    model: Moondream,
    tensors: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    groups: Sequence[RLGroup | SFTGroup],
    *,
    advantage_scale: str = "group",
    std_floor: float = 1e-4,
    loss: str = "group",
    loss_length: float = 64.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 3.0,
    drop_below: float = 1e-4,
    drop_above: float = 100.0,
    drop_gap: float = 0.7,
    beta: float = 0.0,
    kl_ratio_max: float = 2.0,
    router_beta: float = 0.0,
    sft_weight: float = 1.0,
) -> NaiveStep:
    """Loss, gradient and metrics of one step.

    L    = mean over groups of L_j
    RL   l   = max(-rho A, -clip(rho) A), for A < 0 at most -dual_clip A
         l_t = l + beta min(rho, kl_ratio_max) (k3 of every draw) + router_beta KL of the routers
         L_j = sum of l_t / actions of the group             (group)
               mean over rollouts of the mean of l_t         (grpo; gspo: l of the rollout's ratio)
               mean over rollouts of sum of l_t / length     (dr_grpo)
               sum of l_t * RL groups / actions of the step  (dapo)
    SFT  L_j = sft_weight * mean over targets of -sum of log pi / number of draws
    """
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    policy = Naive(model, leaves, features)
    rl_groups = [group for group in groups if isinstance(group, RLGroup)]
    advantages = naive_advantages(rl_groups, advantage_scale, std_floor)
    num_all = sum(len(rollout_draws(r)) for group in rl_groups for r in group.rollouts)
    zero = torch.zeros((), dtype=torch.float64)
    losses: list[Tensor] = []
    kl: list[float] = []
    router_kl: list[float] = []
    sft: list[float] = []
    clipped: list[float] = []
    ratios: list[float] = []
    entropy: list[float] = []
    num_dropped = 0

    def routers(mine: list[Tensor], other: list[Tensor]) -> Tensor:
        """Of one action, the mean over the layers."""
        found: list[Tensor] = []
        for p, q in zip(mine, other, strict=True):
            p, q = torch.softmax(p, 0), torch.softmax(q, 0)
            found.append((p * (p.log() - q.log())).sum())
        router_kl.extend(float(value.detach()) for value in found)
        return sum(found, zero) / max(1, len(found))

    def clip(rho: Tensor, advantage: float, times: int) -> Tensor:
        cut = min(max(float(rho.detach()), 1 - clip_low), 1 + clip_high)
        value = -rho * advantage
        if -cut * advantage > float(value.detach()):
            value = torch.tensor(-cut * advantage, dtype=torch.float64)
            clipped.extend([float(rho.detach())] * times)
        if advantage < 0 and float(value.detach()) > -dual_clip * advantage:
            value = torch.tensor(-dual_clip * advantage, dtype=torch.float64)
            clipped.extend([float(rho.detach())] * times)
        return value

    for group in groups:
        if isinstance(group, RLGroup):
            num_group = sum(len(rollout_draws(rollout)) for rollout in group.rollouts)
            all_mu = [rollout_logprobs(r, rollout_draws(r)) for r in group.rollouts]
            is_known = all(
                mu is not None
                for mu, r in zip(all_mu, group.rollouts, strict=True)
                if rollout_draws(r)
            )
            of_group: list[Tensor] = []
            for rollout, advantage in zip(group.rollouts, next(advantages), strict=True):
                draws = rollout_draws(rollout)
                if not draws:
                    continue
                mu = rollout_logprobs(rollout, draws) if is_known else None
                terms, router = policy.terms(group.request, draws)
                with torch.no_grad():
                    base, base_router = policy.base().terms(group.request, draws)
                    entropy += policy.entropy(group.request, draws)
                log_rho: list[Tensor] = []
                pulls: list[Tensor] = []
                for t, own in enumerate(terms):
                    log_pi = sum(own, zero)
                    log_rho.append(log_pi - (float(log_pi.detach()) if mu is None else mu[t]))
                    divergence = zero
                    for mine, reference in zip(own, base[t], strict=True):
                        d = reference - mine
                        k3 = torch.exp(d) - d - 1
                        kl.append(float(k3.detach()))
                        divergence = divergence + k3
                    rho = torch.exp(log_rho[-1])
                    pull = beta * torch.clamp(rho, max=kl_ratio_max) * divergence
                    pulls.append(pull + router_beta * routers(router[t], base_router[t]))
                if mu is not None:
                    ratios += [math.exp(float(x.detach())) for x in log_rho]
                mean_log_rho = sum(log_rho, zero) / len(log_rho)
                if loss == "gspo":
                    own_loss = clip(torch.exp(mean_log_rho), advantage, len(draws))
                    values = [own_loss + pull for pull in pulls]
                else:
                    values = [
                        clip(torch.exp(x), advantage, 1) + pull
                        for x, pull in zip(log_rho, pulls, strict=True)
                    ]
                ratio_of = [math.exp(float(x.detach())) for x in log_rho]
                is_far = abs(float(mean_log_rho.detach())) >= drop_gap
                if is_far or min(ratio_of) <= drop_below or max(ratio_of) >= drop_above:
                    num_dropped += 1
                    continue
                weight = {
                    "group": 1 / num_group,
                    "grpo": 1 / (len(group.rollouts) * len(draws)),
                    "gspo": 1 / (len(group.rollouts) * len(draws)),
                    "dr_grpo": 1 / (len(group.rollouts) * loss_length),
                    "dapo": len(rl_groups) / num_all,
                }[loss]
                of_group.append(weight * sum(values, zero))
            losses.append(sum(of_group, zero))
        else:
            means: list[Tensor] = []
            for target in group.targets:
                draws = target_draws(group.request, target)
                terms, router = policy.terms(group.request, draws)
                with torch.no_grad():
                    _, base_router = policy.base().terms(group.request, draws)
                    for t in range(len(draws)):
                        routers(router[t], base_router[t])
                every = [term for own in terms for term in own]
                means.append(-sum(every, zero) / len(every))
            mean = sum(means, zero) / len(means)
            sft.append(float(mean.detach()))
            losses.append(sft_weight * mean)
    total = sum(losses, zero) / len(losses)
    if total.requires_grad:
        total.backward()
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return NaiveStep(
        loss=float(total.detach()),
        gradients=gradients,
        grad_norm=math.sqrt(sum(float((g**2).sum()) for g in gradients.values())),
        kl=sum(kl) / len(kl) if kl else (0.0 if rl_groups else None),
        router_kl=sum(router_kl) / len(router_kl) if router_kl else None,
        sft_loss=sum(sft) / len(sft) if sft else None,
        clipped_ratios=clipped,
        ratios=ratios,
        entropy=sum(entropy) / len(entropy) if entropy else 0.0,
        num_dropped=num_dropped,
    )

"""How the losses of actions become the loss of a step: what one action of each rollout counts.

Letters: j a group of J, i a rollout of its G, T_i the actions of a rollout, T_j those of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

from contract.groups import TrainOptions


def action_weights(
    num_actions: Sequence[Sequence[int]], options: TrainOptions
) -> list[list[float]]:
    """What one action of each rollout counts in the sum over the groups' losses.

        group        1 / T_j              a mean over the actions of each group
        grpo, gspo   1 / (G T_i)          a mean over those of each rollout, then over rollouts
        dr_grpo      1 / (G loss_length)  no rollout counts less for being long
        dapo         J / sum over j of T_j    a mean over all actions of the step

    With `gspo` every action carries the loss of its rollout. A step divides by J at the end.

    Args:
        num_actions: T_i, per group and rollout.

    Source: arXiv:2402.03300 (grpo), 2503.20783 (dr_grpo), 2503.14476 (dapo), 2507.18071 (gspo).
    """
    everything = max(1, sum(map(sum, num_actions)))
    weights: list[list[float]] = []
    for group in num_actions:
        match options.loss:
            case "group":
                weights.append([1.0 / max(1, sum(group))] * len(group))
            case "grpo" | "gspo":
                weights.append([1.0 / (len(group) * max(1, count)) for count in group])
            case "dr_grpo":
                weights.append([1.0 / (len(group) * options.loss_length)] * len(group))
            case "dapo":
                weights.append([len(num_actions) / everything] * len(group))
    return weights

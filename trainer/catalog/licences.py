"""Under what licence the published weights are, in one sentence each. No advice: read the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence of weights.

    Attributes:
        name: Such as `Apache-2.0`.
        meaning: What it means for people who run moontune, in one sentence.
    """

    name: str
    meaning: str


APACHE = Licence(name="Apache-2.0", meaning="free for any use, hosted training included.")
BSL_PREVIEW = Licence(
    name="BSL 1.1 with a use grant",
    meaning=(
        "any use but a paid hosted or embedded service to third parties that competes with M87"
        " Labs; finetunes and quantisations of the weights are covered too."
    ),
)
MOONDREAM_1_0 = Licence(
    name="Moondream Model License 1.0",
    meaning=(
        "own use, products and fine-tuning; no general hosted inference, per-customer endpoints or"
        " self-serve hosted fine-tuning without a commercial licence (as reported: read the text"
        " before you rely on it)."
    ),
)


def stated_licence(name: str | None) -> Licence:
    """The licence of a repository that we know nothing of but its own word, if it has one."""
    if name is None:
        return Licence(
            name="unknown", meaning="read the repository's licence before you use the weights."
        )
    return Licence(name=name, meaning="as its repository states; read it before you use it.")

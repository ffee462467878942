"""The published models that moontune is made for. Others can be pulled as well."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.catalog.licences import APACHE, BSL_PREVIEW, MOONDREAM_1_0, Licence
from trainer.model.config import Family
from trainer.model.published_config import MODEL_TYPE_OF_FAMILY, MoondreamConfig

TOKENIZER_REPOSITORY = "moondream/starmie-v1"
"""All published models share it; the file in the Moondream 2 repository is a stale one."""
TOKENIZER_REVISION = "35192e10a54e36eabe0a7cc57a2c1aab371cafc5"


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A published model.

    Attributes:
        revision: The commit that is pulled; None: the newest, which the first pull records.
        has_fp8: Whether its weights are published with fp8 experts only.
        fp8_file: A second set of weights in the same repository, with fp8 experts.
    """

    repository: str
    family: Family
    licence: Licence
    revision: str | None = None
    has_fp8: bool = False
    fp8_file: str | None = None

    @property
    def config(self) -> MoondreamConfig:
        """Its sizes, which are those of the family."""
        return MoondreamConfig.from_published({"model_type": MODEL_TYPE_OF_FAMILY[self.family]})


KNOWN_MODELS = (
    KnownModel(
        repository="vikhyatk/moondream2",
        family=Family.MOONDREAM2,
        licence=APACHE,
        revision="9a7d4024050840e001defacec2b00727e89149e6",  # 2025-06-21
    ),
    KnownModel(
        repository="moondream/moondream3-preview",
        family=Family.MOONDREAM3,
        licence=BSL_PREVIEW,
        fp8_file="model_fp8.pt",
    ),
    KnownModel(
        repository="moondream/moondream3.1-9B-A2B",
        family=Family.MOONDREAM3,
        licence=MOONDREAM_1_0,
        has_fp8=True,
    ),
)


def known_model(repository: str) -> KnownModel | None:
    """Look one up by its repository."""
    return next((model for model in KNOWN_MODELS if model.repository == repository), None)

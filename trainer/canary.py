"""What a worker answers to a fixed question about a fixed picture, before it takes any work.

Two workers that loaded the same model on the same device give the same digest; one whose weights,
device or kernels went wrong most likely does not. It also does what is done lazily at first, so
that the first caller does not wait for it.
"""

from __future__ import annotations

import hashlib
import json

from contract.engine import Answer
from contract.skills import Pixels, QueryRequest, Settings
from trainer.engine import TrainerEngine

_SIDE = 64
_TOKENS = 2


def sing(engine: TrainerEngine) -> str:
    """Answer, and return the digest of the answer in hex."""
    command = Answer(
        adapter=None,
        request=QueryRequest(question="?", image=0),
        settings=Settings(temperature=0.0, max_tokens=_TOKENS),
        seed=0,
    )
    answered = engine.answer(command, [_picture()])
    told = json.dumps([answered.output, answered.output_tokens], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _picture() -> Pixels:
    """A ramp of every colour channel."""
    data = bytes(
        (4 * x, 4 * y, 2 * (x + y))[c] for y in range(_SIDE) for x in range(_SIDE) for c in range(3)
    )
    return Pixels(height=_SIDE, width=_SIDE, digest=hashlib.sha256(data).hexdigest(), data=data)

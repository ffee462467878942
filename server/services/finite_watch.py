"""Steps whose numbers were not finite: one line for each, and an alarm when they do not end."""

from __future__ import annotations

import structlog

from contract.engine import SkipReason, StepTrained
from server.meters import STEPS_NOT_FINITE, Meters

ALARM_AFTER = 3
"""So many in a row are no accident; the weights may be about to diverge, or a reward is wrong."""

_log = structlog.get_logger("server.training")


class FiniteWatch:
    """Counts, by finetune, the steps in a row that changed nothing because of their numbers."""

    def __init__(self, meters: Meters):
        self._meters = meters
        self._in_a_row: dict[str, int] = {}

    def saw(self, finetune_id: str, step: int, trained: StepTrained) -> None:
        """Take a committed step in."""
        if trained.skip_reason is not SkipReason.NON_FINITE:
            if trained.applied:
                self._in_a_row.pop(finetune_id, None)
            return
        where = trained.non_finite
        self._meters.count(STEPS_NOT_FINITE, finetune_id)
        self._in_a_row[finetune_id] = count = self._in_a_row.get(finetune_id, 0) + 1
        _log.warning(
            "step_not_finite",
            finetune_id=finetune_id,
            step=step,
            groups=list(where.groups) if where else [],
            tensors=list(where.tensors) if where else [],
        )
        if count >= ALARM_AFTER:
            _log.error("alarm_steps_not_finite", finetune_id=finetune_id, step=step, in_a_row=count)

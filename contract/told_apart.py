"""Which finetunes the metrics tell apart: those that did something last.

Every value of a label is a series that Prometheus keeps, so there must not be as many as finetunes.
The counts of the others are one series together, so that sums stay right; a finetune that comes
back begins at zero, which Prometheus takes for a restart.
"""

from __future__ import annotations

from collections import OrderedDict

from contract.stats import Metric

Key = tuple[str, tuple[str, ...]]
"""The name of a metric, and the values of its labels."""

MAX_TOLD_APART = 100
OTHERS = "others"
FINETUNE = "finetune_id"


class ToldApart:
    """Counts by metric and labels, with at most so many values of the label `finetune_id`."""

    def __init__(self, *, limit: int = MAX_TOLD_APART):
        self.values: dict[Key, float] = {}
        self._limit = limit
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._keys_of: dict[str, set[Key]] = {}

    def add(self, metric: Metric, labels: tuple[str, ...], by: float) -> None:
        """Add to a counter."""
        key = metric.name, labels
        self.values[key] = self.values.get(key, 0.0) + by
        if FINETUNE not in metric.labels:
            return
        finetune_id = labels[metric.labels.index(FINETUNE)]
        self._recent[finetune_id] = None
        self._recent.move_to_end(finetune_id)
        self._keys_of.setdefault(finetune_id, set()).add(key)
        if len(self._recent) > self._limit:
            oldest, _ = self._recent.popitem(last=False)
            self._fold(oldest)

    def _fold(self, finetune_id: str) -> None:
        """Give what was counted of one to the others."""
        for name, labels in self._keys_of.pop(finetune_id):
            folded = tuple(OTHERS if label == finetune_id else label for label in labels)
            value = self.values.pop((name, labels))
            self.values[name, folded] = self.values.get((name, folded), 0.0) + value

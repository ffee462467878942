"""What is kept: within its budget, least recently used out first, leased things never."""

from __future__ import annotations

import pytest

from trainer.counters import Counters
from trainer.shelf import Shelf


def shelf(budget: int = 3, **more) -> Shelf[str]:
    return Shelf(budget=budget, size=len, **more)


def test_the_least_recently_used_goes_first():
    kept = shelf()
    for key in "abc":
        kept.put(key, "x")
    assert kept.get("a") == "x"
    kept.put("d", "x")
    assert sorted(map(str, kept)) == ["a", "c", "d"]
    kept.put("a", "xx")  # replaces, and pushes the oldest out
    assert sorted(map(str, kept)) == ["a", "d"]


def test_what_is_larger_than_the_budget_is_not_kept_and_pushes_nothing_out():
    kept = shelf()
    kept.put("a", "x")
    assert not kept.put("huge", "xxxx")
    assert list(kept) == ["a"]


def test_what_is_leased_stays_until_its_last_release():
    kept = shelf()
    kept.put("a", "xx")
    kept.put("b", "x")
    assert kept.lease("a") == kept.lease("a") == "xx"
    assert kept.can_take(1)
    assert not kept.can_take(2)
    assert not kept.put("c", "xx")
    kept.release("a")
    kept.drop()
    assert list(kept) == ["a"]
    with pytest.raises(ValueError, match="in use"):
        kept.put("a", "x")
    kept.release("a")
    assert kept.put("c", "xxx")
    assert list(kept) == ["c"]


def test_what_was_not_leased_cannot_be_released():
    kept = shelf()
    kept.put("a", "x")
    kept.lease("a")
    kept.release("a")
    for key in ("a", "never kept"):
        with pytest.raises(AssertionError, match="was not leased"):
            kept.release(key)
    kept.drop()
    assert not list(kept)


def test_sizes_may_be_places_while_what_is_counted_is_bytes():
    counters = Counters()
    kept: Shelf[str] = Shelf(
        budget=2, size=lambda _: 1, num_bytes=len, name="adapters", counters=counters
    )
    for key in "abc":
        kept.put(key, "xxxxx")
    assert counters.value("moontune_cache_bytes", "adapters") == 2 * 5


def test_what_goes_is_handed_on_and_what_is_dropped_is_not():
    gone: list[tuple[object, str]] = []
    kept = shelf(on_evicted=lambda key, value: gone.append((key, value)))
    kept.put("a", "x")
    kept.put("b", "xxx")
    assert gone == [("a", "x")]
    kept.drop(lambda key: key == "b")
    assert gone == [("a", "x")]
    assert "b" not in kept


def test_everything_is_counted():
    counters = Counters()
    kept = shelf(name="prefixes", counters=counters)
    kept.get("a")
    kept.put("a", "xx")
    kept.get("a")
    kept.put("b", "xx")
    found = {
        name: counters.value(f"moontune_cache_{name}", "prefixes")
        for name in ("hits_total", "misses_total", "evictions_total", "bytes")
    }
    assert found == {"hits_total": 1, "misses_total": 1, "evictions_total": 1, "bytes": 2}

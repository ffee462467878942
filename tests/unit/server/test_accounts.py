"""Rules of keys, limits, rates, rights and CSV that need no service."""

from __future__ import annotations

import pytest

from server.api.csv_text import cell
from server.domain import rate
from server.domain.caller import Caller, Limits, calling, current_caller, set_caller
from server.domain.errors import RateLimitedError
from server.domain.keys import (
    RANDOM_BYTES,
    SHOWN_CHARACTERS,
    digest_of,
    draw_key,
    is_account_name,
    shown_part,
)
from server.domain.rate import Rates
from server.domain.usage import Usage
from server.services.limits import RateLimits
from tests.accounts import Scope


def test_keys_are_random_and_what_is_shown_leaves_128_bits() -> None:
    keys = {draw_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith("mt_") and key.isascii() and key.isprintable() for key in keys)
    shown_bits = 6 * (SHOWN_CHARACTERS - len("mt_"))
    assert RANDOM_BYTES * 8 - shown_bits >= 128
    key = keys.pop()
    assert key.startswith(shown_part(key))
    assert len(digest_of(key)) == 64
    assert digest_of("\udcff\0é")  # whatever a header can hold


def test_names_of_accounts() -> None:
    assert is_account_name("default")
    assert is_account_name("a" * 64)
    for name in ("", "A", "a" * 65, "-a", "a b", "a/b", "a\n", "é"):
        assert not is_account_name(name), name


def test_own_limits_come_first() -> None:
    own = Limits(requests_per_minute=1, max_finetunes=0)
    defaults = Limits(requests_per_minute=5, max_finetunes=5, max_stored_bytes=7)
    assert own.or_else(defaults) == Limits(
        requests_per_minute=1, max_finetunes=0, max_stored_bytes=7
    )


def test_a_rate_lets_a_minute_s_worth_through_and_then_evenly() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    assert [rates.take("a", per_minute=3) for _ in range(4)] == [None, None, None, 20]
    assert rates.take("b", per_minute=3) is None
    now[0] = 19.0
    assert rates.take("a", per_minute=3) == 1  # refused calls have taken nothing
    now[0] = 20.0
    assert rates.take("a", per_minute=3) is None
    assert rates.take("a", per_minute=3) == 20
    now[0] = 10_000.0
    assert [rates.take("a", per_minute=3) for _ in range(4)] == [None, None, None, 20]


def test_rates_remember_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_REMEMBERED", 2)
    rates = Rates(lambda: 0.0)
    for who in "abc":
        assert rates.take(who, per_minute=1) is None
    assert rates.take("c", per_minute=1) == 60
    assert rates.take("a", per_minute=1) is None


@pytest.mark.parametrize(
    ("addresses", "is_one"),
    [
        (("10.0.0.1", "10.0.0.2"), False),
        (("2001:db8::1", "2001:db8::ffff:2"), True),
        (("2001:db8::1", "2001:db8:0:1::1"), False),
        (("testclient", "testclient"), True),
    ],
)
def test_bad_keys_are_counted_by_address(addresses: tuple[str, str], is_one: bool) -> None:
    limits = RateLimits(bad_keys_per_minute=1, clock=lambda: 0.0)
    limits.take_bad_key(addresses[0])
    if not is_one:
        limits.take_bad_key(addresses[1])
        return
    with pytest.raises(RateLimitedError) as refused:
        limits.take_bad_key(addresses[1])
    assert refused.value.retry_after == 60


def test_rollouts_at_once_are_those_of_the_key_under_way() -> None:
    limits = RateLimits(bad_keys_per_minute=None)
    one = Caller(account_id="a", key_id="1", limits=Limits(max_concurrent_rollouts=1))
    other = Caller(account_id="a", key_id="2", limits=Limits(max_concurrent_rollouts=1))
    with calling(one), limits.rollouts():
        with pytest.raises(RateLimitedError), limits.rollouts():
            pass
        with calling(other), limits.rollouts():
            pass
        with calling(), limits.rollouts(), limits.rollouts():
            pass
    with calling(one), limits.rollouts():
        pass


def test_the_caller_ends_with_the_call() -> None:
    with calling():
        set_caller(Caller(account_id="a", scope=Scope.READ))
        assert current_caller() == Caller(account_id="a", scope=Scope.READ)
    assert current_caller() is None


def test_sums_of_usage() -> None:
    assert Usage(requests=1, steps=2) + Usage(requests=3, images=1) == Usage(
        requests=4, steps=2, images=1
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), ("@x", "'@x"), ("\tx", "'\tx"),
     ("a=1", "a=1"), (None, ""), (12, "12"), (0.5, "0.5")],
)  # fmt: skip
def test_no_cell_is_a_formula(value: object, shown: str) -> None:
    assert cell(value) == shown

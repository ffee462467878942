"""How often and how much at once keys may call; kept in memory, and begun anew with the process."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from server.domain.caller import Caller, current_caller
from server.domain.errors import RateLimitedError
from server.domain.rate import Rates

ROLLOUTS_RETRY_SECONDS = 2
_NETWORK_BITS = 64
"""Of an IPv6 address, which are one customer's."""


class RateLimits:
    """Refuses what comes too often, or too much at once.

    Args:
        bad_keys_per_minute: From one address, before they are answered 429; None: any number.
        clock: Monotonic seconds.
    """

    def __init__(
        self, *, bad_keys_per_minute: int | None, clock: Callable[[], float] = time.monotonic
    ):
        self._bad_keys_per_minute = bad_keys_per_minute
        self._requests = Rates(clock)
        self._bad_keys = Rates(clock)
        self._num_rollouts: Counter[tuple[str, str]] = Counter()

    def take_request(self, caller: Caller) -> None:
        """Count a call.

        Raises:
            RateLimitedError: There were too many of this key.
        """
        limit = caller.limits.requests_per_minute
        if limit is None:
            return
        wait = self._requests.take(_who(caller), per_minute=limit)
        if wait is not None:
            raise RateLimitedError(
                f"This key may make {limit} requests a minute; ask again in {wait} s.",
                retry_after=wait,
            )

    def take_bad_key(self, address: str) -> None:
        """Count a call with a bad key; who has a good one is not concerned.

        Raises:
            RateLimitedError: There were too many of this address.
        """
        if self._bad_keys_per_minute is None:
            return
        wait = self._bad_keys.take(_network(address), per_minute=self._bad_keys_per_minute)
        if wait is not None:
            raise RateLimitedError(
                f"Too many calls with keys that are not known; ask again in {wait} s.",
                retry_after=wait,
            )

    @contextmanager
    def rollouts(self) -> Generator[None]:
        """Hold one of the rollouts that the caller's key may have at once.

        Raises:
            RateLimitedError: It has as many.
        """
        caller = current_caller()
        limit = None if caller is None else caller.limits.max_concurrent_rollouts
        if caller is None or limit is None:
            yield
            return
        who = _who(caller)
        if self._num_rollouts[who] >= limit:
            raise RateLimitedError(
                f"This key may have {limit} rollouts calls at once, and has them; ask again when"
                " one has ended.",
                retry_after=ROLLOUTS_RETRY_SECONDS,
            )
        self._num_rollouts[who] += 1
        try:
            yield
        finally:
            self._num_rollouts[who] -= 1
            if not self._num_rollouts[who]:
                del self._num_rollouts[who]


def _who(caller: Caller) -> tuple[str, str]:
    return caller.account_id, caller.key_id


def _network(address: str) -> str:
    """The address that counts: IPv6 addresses come by the billion."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
    return address

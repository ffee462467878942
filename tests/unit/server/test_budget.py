"""A budget is never exceeded but by one that is alone, and nobody is overtaken."""

from __future__ import annotations

import asyncio

import pytest

from server.budget import Budget

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def start(budget: Budget, amount: int, within: float = 60.0) -> asyncio.Task[None]:
    return asyncio.create_task(budget.take(amount, within=within))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_given_at_once_and_the_rest_waits_in_order() -> None:
    budget = Budget(10)
    await budget.take(6, within=0)
    large, small = start(budget, 8), start(budget, 1)  # the small one would fit
    await turns()
    assert (large.done(), small.done(), budget.num_waiting) == (False, False, 2)
    assert not budget.try_take(1)
    budget.give_back(6)
    await turns()
    assert (large.done(), small.done(), budget.used) == (True, True, 9)


async def test_what_is_larger_than_all_of_it_has_it_alone() -> None:
    budget = Budget(10)
    await budget.take(1, within=0)
    giant, after = start(budget, 25), start(budget, 1)
    await turns()
    assert not giant.done()
    budget.give_back(1)
    await turns()
    assert (giant.done(), after.done(), budget.used) == (True, False, 25)
    budget.give_back(25)
    await turns()
    assert (after.done(), budget.used) == (True, 1)


async def test_who_waits_too_long_goes_and_lets_the_next_one_through() -> None:
    budget = Budget(10)
    await budget.take(5, within=0)
    large, small = start(budget, 9, within=0.01), start(budget, 2)
    with pytest.raises(TimeoutError):
        await large
    await small
    assert (budget.used, budget.num_waiting) == (7, 0)


@pytest.mark.parametrize("is_given", [False, True])
async def test_who_is_called_away_leaves_nothing_behind(is_given: bool) -> None:
    budget = Budget(10)
    await budget.take(10, within=0)
    waiter = start(budget, 10)
    await turns()
    if is_given:
        budget.give_back(10)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (budget.used, budget.num_waiting) == (0 if is_given else 10, 0)


async def test_a_share_is_given_back_whatever_happens() -> None:
    budget = Budget(10)

    async def fail() -> None:
        async with budget.share(4, within=0):
            assert budget.used == 4
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await fail()
    assert budget.used == 0


async def test_who_needs_nothing_waits_for_nobody() -> None:
    budget = Budget(10)
    await budget.take(9, within=0)
    waiter = start(budget, 5)
    await turns()
    assert budget.try_take(0)
    await budget.take(0, within=0)
    budget.give_back(0)
    budget.give_back(9)
    await waiter
    assert budget.used == 5

"""One bench for all rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat.bench import Bench
from tests.compat.case import Case
from tests.compat.outcome import Runner


@pytest.fixture(scope="session")
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """The servers that all rows share."""
    folder = tmp_path_factory.mktemp("c")  # sockets lie in it, so its path is short
    with Bench(folder, is_full=request.config.getoption("--full")) as bench:
        yield bench


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Runner]:
    """Runs rows; the long ones that were chosen have begun."""
    chosen = [
        case
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        if isinstance(case := item.callspec.params.get("case"), Case)
    ]
    with Runner(bench) as runner:
        runner.begin(chosen)
        yield runner

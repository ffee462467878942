"""What all tests share: the choice of the database, of counts, and the watch for unpickling."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest
import structlog

from tests import databases, postgres, unpickling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("both", *databases.KINDS),
        default="both",
        help="Run tests that need a database on this one; whole servers use SQLite unless it is"
        " postgresql.",
    )
    parser.addoption(
        "--full",
        action="store_true",
        help="Run the training scripts of tests/compat at their uncut counts.",
    )


def pytest_configure(config: pytest.Config) -> None:
    choice = config.getoption("--database")
    databases.chosen[:] = databases.KINDS if choice == "both" else (choice,)
    unpickling.watch()
    # Each trace that is logged would otherwise be painted with all variables, for six seconds.
    plain = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test in which product code unpickled something, also if it caught the error."""
    result = yield
    told, unpickling.found[:] = list(unpickling.found), []
    if told:
        pytest.fail("\n".join(told))
    return result


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whoever asks for `database_kind`, directly or not, runs on each database.

    A module that says ONE_DATABASE_IS_ENOUGH does so only when a database is named; the mark
    `database` names the only one that a test is about.
    """
    if "database_kind" in metafunc.fixturenames:
        is_enough = getattr(metafunc.module, "ONE_DATABASE_IS_ENOUGH", False)
        kinds = databases.chosen[:1] if is_enough else databases.chosen
        mark = metafunc.definition.get_closest_marker("database")
        kinds = [kind for kind in kinds if mark is None or kind in mark.args]
        metafunc.parametrize("database_kind", kinds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that are about a database that was not asked for."""
    marks = [(item, item.get_closest_marker("database")) for item in items]
    others = [item for item, mark in marks if mark and not {*mark.args} & {*databases.chosen}]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin: with groups kept together, and few searches for garbage.

    A process that holds torch and five thousand tests spends a tenth of its time in searches that
    find nothing.
    """
    _refuse_split_groups(session)
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _refuse_split_groups(session: pytest.Session) -> None:
    """Refuse a runner that takes no notice of groups.

    pytest-xdist tells them by the ids of tests, which pytest 9.2 no longer lets it change
    (pytest-dev/pytest-xdist issue 1386); each process would then start what a group shares.
    """
    if not session.config.getoption("loadgroup", default=False):
        return
    groups = (item for item in session.items if item.get_closest_marker("xdist_group"))
    if (item := next(groups, None)) is not None and "@" not in item.nodeid.rpartition("]")[2]:
        session.shouldfail = "this pytest-xdist does not keep the groups of tests together"


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite` or `postgresql`; skips where there is no such server."""
    kind: str = request.param
    if kind == "postgresql" and (reason := postgres.why_not()):
        pytest.skip(reason)
    return kind

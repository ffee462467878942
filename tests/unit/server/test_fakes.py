"""The fakes are held to the protocols, member by member."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

from contract.engine import Engine
from server.engine_client import EngineClient
from server.services.dispatch import SupervisedEngine
from server.services.images import ImageDecoder
from tests.fakes import FakeEngine, FakeImageDecoder


def members(protocol: type) -> list[str]:
    return sorted(
        name
        for base in protocol.__mro__
        if base.__module__.startswith(("contract", "server"))
        for name, value in vars(base).items()
        if inspect.isfunction(value) and not name.startswith("_")
    )


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        (Engine, FakeEngine),
        (SupervisedEngine, FakeEngine),
        (SupervisedEngine, EngineClient),
        (ImageDecoder, FakeImageDecoder),
    ],
)
def test_every_member_is_there_with_the_same_shape(protocol: type, implementation: Any) -> None:
    for name in members(protocol):
        wanted, found = getattr(protocol, name), getattr(implementation, name)
        assert inspect.iscoroutinefunction(found) == inspect.iscoroutinefunction(wanted), name
        assert list(inspect.signature(found).parameters) == list(
            inspect.signature(wanted).parameters
        ), name
        assert get_type_hints(found) == get_type_hints(wanted), name


def test_the_engine_protocol_has_its_six_verbs() -> None:
    assert members(Engine) == [
        "answer",
        "describe",
        "drop",
        "export_checkpoint",
        "make_rollouts",
        "train_step",
    ]

"""What holds for all values: cursors, object caps, paths."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.skills import Skill
from server.api.middleware import normal_path
from server.api.pagination import clamp_limit, decode_cursor, encode_cursor
from server.domain import rules
from server.domain.errors import ValidationFailedError
from server.domain.sampling import Purpose, SentSettings, resolve_settings

keys = st.dictionaries(
    st.sampled_from(["step", "name", "ordinal"]),
    st.integers(-(2**63), 2**63) | st.text(max_size=20),
    min_size=1,
)
maybe = st.none() | st.integers(min_value=1, max_value=10**12)


@given(keys)
def test_cursors_survive_a_round_trip(key: dict[str, object]) -> None:
    assert decode_cursor(encode_cursor(key)) == key


@given(st.text())
def test_any_text_is_a_cursor_or_a_refusal(text: str) -> None:
    with suppress(ValidationFailedError):
        assert decode_cursor(text)


@given(st.integers())
def test_limits_are_clamped(limit: int) -> None:
    assert 1 <= clamp_limit(str(limit)) <= 100


@given(st.sampled_from(list(Skill)), st.sampled_from(list(Purpose)), maybe, maybe)
def test_at_least_one_object_and_never_more_than_asked_for(
    skill: Skill, purpose: Purpose, max_tokens: int | None, max_objects: int | None
) -> None:
    settings = resolve_settings(
        skill,
        SentSettings(max_tokens=max_tokens, max_objects=max_objects),
        purpose=purpose,
        max_generation_tokens=4096,
    )
    assert settings.max_objects >= 1
    assert 1 <= settings.max_tokens <= 4096
    if max_objects is not None:
        assert settings.max_objects <= max_objects


@given(st.text())
def test_paths_are_normal_after_one_pass(path: str) -> None:
    once = normal_path(path)
    assert normal_path(once) == once
    assert "//" not in once


@given(st.text())
def test_proposed_names_are_always_allowed(name: str) -> None:
    assert rules.is_finetune_name(rules.propose_finetune_name(name))


@given(st.floats())
def test_coordinates_end_inside_or_are_refused(value: float) -> None:
    if -0.01 <= value <= 1.01:
        assert 0 <= rules.clamp_coordinate(value) <= 1
    else:
        with pytest.raises(ValueError, match="fractions"):
            rules.clamp_coordinate(value)

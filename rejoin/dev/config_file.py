"""The files that `rejoin dev` writes into its data directory for other commands.

`rejoin.toml` holds the settings of the running installation, for example for
`rejoin runs --config .rejoin/rejoin.toml`. `context.key` holds the key that encrypts contexts; it outlives
restarts. Both hold secrets: only their owner can read them.
"""

import secrets
from base64 import b64encode
from pathlib import Path

import msgspec

from rejoin_protocol.security import sealing
from rejoin_protocol.settings import SETTING_PREFIX

CONFIG_FILE = "rejoin.toml"
CONTEXT_KEY_FILE = "context.key"


class SharedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all services of one `rejoin dev` share. Without `default_agent`: not known yet."""

    nats_url: str
    database_url: str
    context_encryption_keys: str
    default_agent: str | None = None


def write_config(data_dir: Path, settings: SharedSettings) -> None:
    """Write `rejoin.toml`, complete or not at all."""
    # A JSON string is a TOML basic string, too.
    lines = [
        f"{name} = {msgspec.json.encode(value).decode()}\n"
        for name, value in msgspec.structs.asdict(settings).items()
        if value is not None
    ]
    _write_private(data_dir / CONFIG_FILE, "".join(lines))


def variables(settings: SharedSettings) -> dict[str, str]:
    """The same settings as environment variables."""
    values = msgspec.structs.asdict(settings)
    return {f"{SETTING_PREFIX}{name.upper()}": value for name, value in values.items() if value is not None}


def context_encryption_keys(data_dir: Path) -> str:
    """The key that encrypts contexts, `dev:<base64>`. The first call generates it."""
    path = data_dir / CONTEXT_KEY_FILE
    if not path.exists():
        _write_private(path, f"dev:{b64encode(secrets.token_bytes(sealing.KEY_BYTES)).decode()}\n")
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Replace the file by one that only its owner can read."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(text)
    new.replace(path)

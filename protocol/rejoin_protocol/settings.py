"""Loads the settings of a service from environment variables, secret files and TOML, all given as arguments.

The value of a field `nats_url` is `REJOIN_NATS_URL`, else the content of the file that `REJOIN_NATS_URL_FILE`
names, else `nats_url` in the TOML file, else the default of the struct.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid

SETTING_PREFIX = "REJOIN_"


def load[T: msgspec.Struct](
    kind: type[T],
    variables: Mapping[str, str],
    *,
    read: Callable[[str], str],
    toml: Mapping[str, Any] | None = None,
) -> T:
    """The settings of one service. Raises `Invalid`, which names the missing or invalid setting.

    `read` returns the text of a file. Unknown names in `toml` are ignored here; the caller checks them.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = SETTING_PREFIX + field.name.upper()
        if name in variables:
            values[field.name] = variables[name]
        elif f"{name}_FILE" in variables:
            values[field.name] = _read_secret(variables[f"{name}_FILE"], f"{name}_FILE", read)
        elif toml and field.name in toml:
            values[field.name] = toml[field.name]
        elif field.required:
            raise Invalid(f"{name} is not set")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"a {SETTING_PREFIX}… setting is invalid: {error}") from error


def _read_secret(path: str, name: str, read: Callable[[str], str]) -> str:
    try:
        return read(path).strip()
    except OSError as error:
        raise Invalid(f"{name} names a file that cannot be read ({error.strerror})") from error

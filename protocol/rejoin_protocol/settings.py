"""Settings of a service from variables, secret files and a TOML file. Pure: it is given all three.

A field `nats_url` is read from `REJOIN_NATS_URL`, else from the file that `REJOIN_NATS_URL_FILE` names, else
from `nats_url` of the TOML file, else it is the struct's default.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid

PREFIX = "REJOIN_"


def load[T: msgspec.Struct](
    kind: type[T],
    variables: Mapping[str, str],
    *,
    read: Callable[[str], str],
    toml: Mapping[str, Any] | None = None,
) -> T:
    """The settings of one service. Raises `Invalid` naming the setting that is missing or wrong.

    `read` returns a file's text; names in `toml` that no service has are the caller's business.
    """
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        name = PREFIX + field.name.upper()
        if name in variables:
            given[field.name] = variables[name]
        elif f"{name}_FILE" in variables:
            given[field.name] = _secret(variables[f"{name}_FILE"], f"{name}_FILE", read)
        elif toml and field.name in toml:
            given[field.name] = toml[field.name]
        elif field.required:
            raise Invalid(f"{name} is not set")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as fault:
        raise Invalid(f"a {PREFIX}… setting is wrong: {fault}") from fault


def _secret(path: str, name: str, read: Callable[[str], str]) -> str:
    try:
        return read(path).strip()
    except OSError as fault:
        raise Invalid(f"{name} names a file that cannot be read ({fault.strerror})") from fault

"""The table of all settings in `docs/operations.md`, generated from the structs that read them.

`python -m tests.support.settings_table` writes it between two comments of the page;
`tests/unit/gateway/test_operations.py` compares.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rejoin.cli import api_keys, check_settings, runs
from rejoin.cli.operate import migration
from rejoin.dev import launcher
from rejoin_gateway.settings import GatewaySettings
from rejoin_runner.settings import RunnerSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"
READERS: dict[str, type[msgspec.Struct]] = {
    "gateway": GatewaySettings,
    "runner": RunnerSettings,
    "migrate": migration.MigrateSettings,
    "keys": api_keys.KeySettings,
    "runs": runs.RunSettings,
    "doctor": check_settings.DoctorSettings,
    "dev": launcher.DevSettings,
}
"""By command; `sessions`, `users` and `tenants` read what `runs` reads."""
SECRETS = {
    "nats_url",
    "database_url",
    "api_key_pepper",
    "context_encryption_keys",
    "jwt_key",
    "model_api_key",
}
UNSAID = {
    "port": "Its port.",
    "log_level": "`debug`, `info`, `warning`, `error` or `critical`.",
}
"""What the structs do not say, because it says itself there."""


def _said(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """A struct's fields and the strings below them."""
    [struct] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(struct, ast.ClassDef)
    for field, below in zip(struct.body, [*struct.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    yield field.target.id, " ".join(text.split())
                case _:
                    yield field.target.id, ""


def settings_meanings() -> dict[str, str]:
    """What each setting is for: the first description that a struct gives."""
    found = dict(UNSAID)
    for kind in READERS.values():
        for one in reversed(kind.__mro__):
            if one is not msgspec.Struct and issubclass(one, msgspec.Struct):
                for name, text in _said(one):
                    if not found.get(name):
                        found[name] = text
    return found


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or value == "":
        return ""
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def render_table() -> str:
    """The Markdown table, one setting a row."""
    text, rows = settings_meanings(), dict[str, tuple[list[str], str]]()
    for command, kind in READERS.items():
        for field in msgspec.structs.fields(kind):
            readers, _ = rows.setdefault(field.name, ([], _default(field.default)))
            readers.append(command)
    lines = ["| `REJOIN_…` | default | read by | |", "|---|---|---|---|"]
    for name, (readers, default) in rows.items():
        secret = " Better by file." if name in SECRETS else ""
        lines.append(f"| `{name.upper()}` | {default} | {' '.join(readers)} | {text[name]}{secret} |")
    return "\n".join(lines) + "\n"


def with_new_table(document: str) -> str:
    """The document with a newly rendered table."""
    return replace_between(document, BEGIN, END, render_table())


def replace_between(document: str, begin: str, end: str, table: str) -> str:
    """The document with another table between two comments."""
    before, _, rest = document.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + table + end + after


if __name__ == "__main__":
    DOCUMENT.write_text(with_new_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")

"""The index of SQL functions in `migrations/README.md`, made from the migrations.

`python -m tests.support.sql_functions` writes it between two comments of the page;
`tests/unit/docs/test_sql_functions.py` compares it with the migrations, and
`tests/integration/database/test_sql_functions.py` with a migrated database.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.settings_table import replace_between

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "migrations" / "README.md"
BEGIN, END = "<!-- functions -->\n", "<!-- /functions -->\n"
_STATEMENT = re.compile(
    r"^create (?:or replace )?function (?P<created>\w+) ?"
    r"\((?P<arguments>[^()]*(?:\([^()]*\)[^()]*)*)\)\s+returns"
    r"|^drop function (?:if exists )?(?P<dropped>[^;]+);",
    re.MULTILINE,
)
_SIGNATURE = re.compile(r"(\w+)(?:\s*\(([^)]*)\))?")


class SqlFunction(NamedTuple):
    """A function of the migrated schema. `types`: those of its arguments, as the migration writes them."""

    name: str
    types: tuple[str, ...]


def _up_sections() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        yield path.name, path.read_text(encoding="utf-8").partition("-- migrate:down")[0]


def _type_of(argument: str) -> str:
    """The type in `p_name type`, or the argument itself if it has no name."""
    words = argument.partition(" default ")[0].split()
    return words[-1]


def _types_of(arguments: str) -> tuple[str, ...]:
    return tuple(_type_of(one) for one in arguments.split(",") if one.strip())


def newest_bodies() -> dict[SqlFunction, str]:
    """For each function of the migrated schema the file with its newest body."""
    files: dict[SqlFunction, str] = {}
    for file, text in _up_sections():
        for statement in _STATEMENT.finditer(text):
            if statement["created"]:
                files[SqlFunction(statement["created"], _types_of(statement["arguments"]))] = file
                continue
            for name, arguments in _SIGNATURE.findall(statement["dropped"]):
                exact = SqlFunction(name, _types_of(arguments))
                for one in [exact] if exact in files else [one for one in files if one.name == name]:
                    del files[one]
    return files


def render_table() -> str:
    """The Markdown table: one signature a row, by name and age."""
    bodies = sorted(newest_bodies().items(), key=lambda item: (item[0].name, item[1], len(item[0].types)))
    names = Counter(function.name for function, _ in bodies)
    lines = ["| function | newest body |", "|---|---|"]
    for (name, types), file in bodies:
        arguments = f" with {len(types)} argument{'s' * (len(types) != 1)}" if names[name] > 1 else ""
        lines.append(f"| `{name}`{arguments} | `{file}` |")
    return "\n".join(lines) + "\n"


def with_new_functions(page: str) -> str:
    """The page with a newly rendered table."""
    return replace_between(page, BEGIN, END, render_table())


if __name__ == "__main__":
    PAGE.write_text(with_new_functions(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

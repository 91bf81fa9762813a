"""The table of the fixed limits in `docs/operations.md`, generated from `rejoin_protocol.limits`.

`python -m tests.support.limits_table` writes it between two comments of the page;
`tests/unit/gateway/test_operations.py` compares.
"""

import ast
import inspect
from collections.abc import Iterator

from rejoin_protocol import limits
from tests.support.settings_table import DOCUMENT, replace_between

BEGIN, END = "<!-- limits -->\n", "<!-- /limits -->\n"
UNITS = {"KIB": "KiB", "MIB": "MiB"}


def _limits() -> Iterator[tuple[str, str, str]]:
    """Each limit: its name, its value as written, and the string below it."""
    body = ast.parse(inspect.getsource(limits)).body
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node, below:
            case ast.Assign([ast.Name(name)], value), ast.Expr(ast.Constant(str(text))):
                yield name, _written(value), " ".join(text.split())
            case _:
                continue


def _written(value: ast.expr) -> str:
    match value:
        case ast.BinOp(ast.Constant(int(count)), ast.Mult(), ast.Name(unit)):
            return f"{count} {UNITS[unit]}"
        case ast.Name(unit):
            return f"1 {UNITS[unit]}"
        case _:
            return f"{ast.literal_eval(value):,}"


def limits_without_reason() -> list[str]:
    """The names of limits that have no string below them."""
    said = {name for name, _, _ in _limits()}
    return [
        name for name in dir(limits) if name.isupper() and name not in said and name not in ("KIB", "MIB")
    ]


def render_table() -> str:
    """The Markdown table, one limit a row."""
    lines = ["| limit | | what, and why |", "|---|---|---|"]
    lines += [f"| `{name}` | {value} | {text} |" for name, value, text in _limits()]
    return "\n".join(lines) + "\n"


def with_new_limits(document: str) -> str:
    """The document with a newly rendered table."""
    return replace_between(document, BEGIN, END, render_table())


if __name__ == "__main__":
    DOCUMENT.write_text(with_new_limits(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")

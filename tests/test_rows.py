"""`docs/rows.md` says which tests show which acceptance row: this test reads the names and compares.

A test shows the rows that its name says: `test_f12_…`, `test_f50_f52_…`, `test_f83_to_f93_…`. Write the page
anew by `python -m tests.test_rows`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rows.md"
ROWS = range(1, 95)
LINE = re.compile(r"\| F(?P<row>\d+) \| (?P<feature>.*?) \| (?P<shown>.*?) \|")
NAMED = re.compile(r"_f(?P<first>\d+)(?:_to_f(?P<last>\d+))?(?=_|$)")
OPEN = "**open**"


def rows_of(name: str) -> set[int]:
    """The rows that a test's name says it shows."""
    leading = re.match(r"test((?:_to_f\d+|_f\d+)*)(?=_|$)", name)
    found = NAMED.finditer(leading[1] if leading else "")
    return {row for one in found for row in range(int(one["first"]), int(one["last"] or one["first"]) + 1)}


def functions() -> Iterator[tuple[str, str]]:
    """Every test's file and name."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield str(path.relative_to(ROOT / "tests")), node.name


def shown() -> dict[int, str]:
    """By row, the files with tests that show it."""
    found: dict[int, set[str]] = {row: set() for row in ROWS}
    for file, name in functions():
        for row in rows_of(name):
            found[row].add(file)
    return {row: ", ".join(sorted(files)) or OPEN for row, files in found.items()}


def page() -> str:
    """The page as it should be: its own words, and the tests as they are."""
    found = shown()

    def line(match: re.Match[str]) -> str:
        return f"| F{match['row']} | {match['feature']} | {found[int(match['row'])]} |"

    return LINE.sub(line, PAGE.read_text(encoding="utf-8"))


def test_a_name_says_its_rows() -> None:
    assert rows_of("test_f12_a_key_is_a_key") == {12}
    assert rows_of("test_f2_f3_headers") == {2, 3}
    assert rows_of("test_f83_to_f85_chaos") == {83, 84, 85}
    assert rows_of("test_a_name_without_f1_at_its_head") == set()


def test_the_page_of_rows_is_true() -> None:
    """Every row is on it, with the tests that there are."""
    text = PAGE.read_text(encoding="utf-8")
    assert [int(match["row"]) for match in LINE.finditer(text)] == list(ROWS)
    assert text == page(), "write it anew: python -m tests.test_rows"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""`docs/rows.md` names the tests of each feature. This test compares the page with the marks of the tests.

A test names the features that it shows: `@pytest.mark.feature("F50", "F52")`. To write the page, run
`python -m tests.test_rows`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rows.md"
FEATURES = [f"F{number}" for number in range(1, 124)]
LINE = re.compile(r"\| (?P<feature>F\d+) \| (?P<description>.*?) \| (?P<files>.*?) \|")
MARK = "pytest.mark.feature"
OPEN = "**open**"


def marked_features(source: str) -> set[str]:
    """The features in the marks of a test file's functions, and in the mark of the whole file. Raises
    `ValueError` if one is not a constant.
    """
    return {
        ast.literal_eval(argument)
        for marks in _marks(ast.parse(source))
        for mark in ast.walk(marks)
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == MARK
        for argument in mark.args
    }


def _marks(source: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from node.decorator_list
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield node.value


@cache
def files_by_feature() -> dict[str, list[str]]:
    """For each marked feature, the test files (paths below `tests/`) that show it."""
    files: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        for feature in marked_features(source) if MARK in source else ():
            files.setdefault(feature, []).append(str(path.relative_to(ROOT / "tests")))
    return files


def render_page() -> str:
    """The page with a new third column, made from the marks. The other columns stay."""
    files = files_by_feature()

    def row(match: re.Match[str]) -> str:
        shown = ", ".join(files.get(match["feature"], [])) or OPEN
        return f"| {match['feature']} | {match['description']} | {shown} |"

    return LINE.sub(row, PAGE.read_text(encoding="utf-8"))


def test_marks_are_read_from_the_source() -> None:
    source = '@pytest.mark.slow\n@pytest.mark.feature("F2", "F3")\nasync def test_f1_headers(): ...\n'
    assert marked_features(source) == {"F2", "F3"}
    assert marked_features('pytestmark = [pytest.mark.slow, pytest.mark.feature("F4")]') == {"F4"}


def test_every_mark_names_a_feature_of_the_page() -> None:
    assert files_by_feature().keys() <= set(FEATURES)


def test_the_page_names_every_feature_and_the_tests_that_show_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [match["feature"] for match in LINE.finditer(text)] == FEATURES
    assert text == render_page(), "run: python -m tests.test_rows"


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")

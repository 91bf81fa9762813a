"""The table of attacks in `tests/security/README.md` names tests that exist."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_row_names_a_test_that_exists() -> None:
    rows = (TESTS / "security" / "README.md").read_text(encoding="utf-8").splitlines()
    named = [TEST.findall(row) for row in rows if row.startswith("| ") and not row.startswith("| kind")]
    assert len(named) > 40
    assert all(len(tests) == 1 for tests in named)
    for [(file, name)] in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        defined = {one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in defined, (file, name)

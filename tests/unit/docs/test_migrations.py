"""The migrations are numbered without gaps, and `migrations/README.md` lists them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "migrations"


def test_the_list_has_each_migration_and_the_numbers_have_no_gap() -> None:
    names = sorted(path.name for path in FOLDER.glob("*.sql"))
    listed = re.findall(r"(?m)^\| `(\d+_\w+\.sql)` \|", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == names
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))

"""The long test files begin, as `make test-all` asks."""

from pathlib import Path

from tests.support.file_times import LONGEST, place_of

ROOT = Path(__file__).parents[1]


def test_the_long_files_are_there_and_have_slow_tests() -> None:
    """A file that is moved, or whose tests are fast now, leaves the table."""
    assert len(set(LONGEST)) == len(LONGEST)
    for file in LONGEST:
        assert "mark.slow" in (ROOT / file).read_text(encoding="utf-8"), file


def test_long_files_come_first_and_each_file_keeps_the_order_of_its_tests() -> None:
    others = ["tests/api/test_aisdk.py::test_b", "tests/api/test_aisdk.py::test_a"]
    second, first = f"{LONGEST[1]}::test_z[::]", f"{LONGEST[0]}::test_a"
    found = sorted([*others, second, first], key=place_of)
    assert found == [first, second, *others]

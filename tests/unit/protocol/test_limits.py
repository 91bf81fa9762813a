"""The fixed limits fit each other, and each one says why it is as it is."""

import re
from pathlib import Path
from typing import TypeAliasType

import msgspec
import pytest

from rejoin_protocol import limits
from tests.support import limits_table, settings_table

ROOT = Path(__file__).parents[3]


def test_each_limit_has_its_reason_and_is_in_the_documentation() -> None:
    assert limits_table.limits_without_reason() == []
    text = settings_table.DOCUMENT.read_text(encoding="utf-8")
    assert limits_table.with_new_limits(text) == text, "run: python -m tests.support.limits_table"


def test_each_limit_is_enforced_somewhere() -> None:
    words = {
        word
        for folder in ("adapters", "gateway", "protocol", "runner")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "limits.py"
        for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
    }
    types = {name: alias.__value__.__metadata__ for name, alias in vars(limits).items() if is_alias(alias)}
    in_types = {value.max_length for name, [value] in types.items() if name in words}
    unused = {
        name
        for name, value in vars(limits).items()
        if name.isupper() and name not in words and value not in in_types
    }
    assert unused <= {"KIB"}


def is_alias(value: object) -> bool:
    return isinstance(value, TypeAliasType)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("TEXT_BYTES_MAX", "BODY_TEXT_BYTES_MAX"),
        ("DATA_BYTES_MAX", "TEXT_BYTES_MAX"),
        ("TOOL_RESULT_BYTES_MAX", "EVENT_BYTES_MAX"),
        ("TOOL_INPUT_BYTES_MAX", "EVENT_BYTES_MAX"),
        ("EVENT_BYTES_MAX", "ANSWER_BYTES_MAX"),
        ("FILE_BYTES_MAX", "FILES_BYTES_MAX"),
        ("FILE_BYTES_MAX", "BODY_BYTES_MAX"),
        ("BODY_BYTES_MAX", "LARGE_BODIES_BYTES_MAX"),
        ("UNCHECKED_BODY_BYTES", "LARGE_BODY_BYTES"),
        ("LARGE_HISTORY_BYTES", "HISTORIES_BYTES_MAX"),
    ],
)
def test_what_is_inside_is_smaller(smaller: str, larger: str) -> None:
    assert getattr(limits, smaller) < getattr(limits, larger)


def test_three_of_the_largest_files_fit_in_a_body() -> None:
    assert 3 * limits.FILE_BYTES_MAX * 4 // 3 < limits.BODY_BYTES_MAX


def test_a_type_carries_its_limit_into_the_schema() -> None:
    schema = msgspec.json.schema(limits.Reason)
    assert schema["$defs"]["Reason"]["maxLength"] == limits.REASON_CHARS_MAX if "$defs" in schema else True
    with pytest.raises(msgspec.ValidationError, match=str(limits.REASON_CHARS_MAX)):
        msgspec.convert("x" * (limits.REASON_CHARS_MAX + 1), limits.Reason)

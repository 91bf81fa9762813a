"""The conditions of a statement that has only those filters that are given.

Each set of filters is a text of its own, so that the database plans with the indexes that suit it.
"""

from collections.abc import Iterable
from typing import Any


def given_conditions(values: list[Any], filters: Iterable[tuple[str, Any]]) -> list[str]:
    """A condition such as `agent = $4` for each filter (`"agent ="`, value) whose value is not None. Appends
    these values to `values`, the arguments of the statement.
    """
    conditions = []
    for comparison, value in filters:
        if value is not None:
            values.append(value)
            conditions.append(f"{comparison} ${len(values)}")
    return conditions

"""The index of SQL functions in `migrations/README.md` is that of the migrations."""

from tests.support.sql_functions import PAGE, SqlFunction, newest_bodies, with_new_functions


def test_the_index_names_the_file_with_the_newest_body_of_each_function() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_new_functions(page) == page, "run: python -m tests.support.sql_functions"


def test_a_replaced_function_has_its_later_file_and_a_dropped_one_none() -> None:
    bodies = newest_bodies()
    names = {function.name for function in bodies}
    assert bodies[SqlFunction("promote_next", ("text",))] == "0015_user_limits.sql"
    assert "free_places" not in names  # 0015 replaces it by another function
    assert {len(function.types) for function in bodies if function.name == "request_approvals"} >= {7, 9}

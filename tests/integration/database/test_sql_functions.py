"""The index of SQL functions lists those of a migrated database."""

import asyncpg

from tests.support.sql_functions import newest_bodies


async def test_the_index_lists_the_functions_of_a_migrated_database(database_url: str) -> None:
    query = "select proname, pronargs from pg_proc where pronamespace = current_schema()::regnamespace"
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(query)
    finally:
        await connection.close()
    listed = sorted((function.name, len(function.types)) for function in newest_bodies())
    assert sorted((row["proname"], row["pronargs"]) for row in rows) == listed

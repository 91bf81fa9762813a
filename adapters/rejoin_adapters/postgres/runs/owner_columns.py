"""The arguments of a statement that may see one owner's rows only."""

from rejoin_adapters.store_types import Owner


def owner_columns(owner: Owner) -> tuple[str, str | None]:
    """`owner` as the arguments $1 (tenant) and $2 (user; null means every user of the tenant)."""
    return owner.tenant, owner.user

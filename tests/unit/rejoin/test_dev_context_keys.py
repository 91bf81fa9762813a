"""`rejoin dev` seals contexts with a key of its data directory: the same at each start, its owner's alone."""

from pathlib import Path

from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.security.sealing import Sealer

from rejoin.dev.infrastructure import context_encryption_keys


def test_the_key_is_made_once_and_opens_what_it_sealed(tmp_path: Path) -> None:
    first, again = context_encryption_keys(tmp_path), context_encryption_keys(tmp_path)
    where = (TenantId("t"), SessionId("s"))
    sealed = Sealer(first, lambda count: b"n" * count).seal({"a": 1}, *where)
    assert Sealer(again, lambda count: b"m" * count).open(sealed, *where) == {"a": 1}
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_another_directory_has_another_key(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    other.mkdir()
    assert context_encryption_keys(one) != context_encryption_keys(other)

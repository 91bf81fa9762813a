"""The ids of files, whose they are, and their URLs."""

from hashlib import sha256

import pytest

from rejoin_protocol import file_ids
from rejoin_protocol.ids import UserId


def test_an_id_says_whose_it_is_and_is_made_of_the_bytes() -> None:
    ann, bob = UserId("ann"), UserId("bob")
    id = file_ids.file_id(ann, b"x")
    assert id == file_ids.file_id(ann, b"x")
    assert (
        len(
            {
                id,
                file_ids.file_id(ann, b"y"),
                file_ids.file_id(bob, b"x"),
                file_ids.file_id(None, b"x"),
            }
        )
        == 4
    )
    assert [file_ids.is_visible_to(id, user) for user in (ann, bob, None)] == [True, False, True]
    assert not file_ids.is_visible_to(file_ids.file_id(None, b"x"), ann)
    assert file_ids.is_content_of(b"x", id)
    assert not file_ids.is_content_of(b"y", id)
    assert file_ids.is_digest_of(sha256(b"x").hexdigest(), id)
    assert not file_ids.is_digest_of(sha256(b"y").hexdigest(), id)


def test_no_user_can_be_called_like_the_tenant_itself() -> None:
    assert file_ids.user_prefix(None) not in {
        file_ids.user_prefix(UserId(name)) for name in ("", "None", "tenant")
    }


def test_an_id_is_read_back_from_its_url() -> None:
    id = file_ids.file_id(None, b"x")
    assert file_ids.parse_stored_url(file_ids.file_url(id)) == id
    assert file_ids.parse_file_id(id) == id
    for other in (
        id,
        f"https://elsewhere{file_ids.file_url(id)}",
        file_ids.file_url(id) + "/..",
        f"{file_ids.FILE_URL_PREFIX}x",
        "",
    ):
        assert file_ids.parse_stored_url(other) is None


@pytest.mark.feature("F120")
def test_a_file_is_found_in_every_form_of_its_url() -> None:
    id = file_ids.file_id(None, b"x")
    path = file_ids.file_url(id)
    for url in (
        path,
        f"{path}?tenant=a&expires=1&signature=b",
        f"{path}#page=2",
        f"http://localhost:8080{path}",
        f"HTTPS://chat.example.com/base{path}?signature=b",
    ):
        assert file_ids.parse_client_url(url) == id
    for url in (
        f"ftp://a{path}",
        f"{path}/..",
        f"{path}a",
        f"https://a/?{path}",
        f"x{path}",
        path.upper(),
        "",
    ):
        assert file_ids.parse_client_url(url) is None

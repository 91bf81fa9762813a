"""Files by their bytes: what is taken, where each kind ends, data URLs, and whose an id is."""

import base64
import io
import struct
import zipfile
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from protocol import media
from protocol.errors import Invalid
from protocol.ids import UserId

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\nstartxref\n9\n%%EOF\n"


def image(format: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, format)
    return out.getvalue()


GOOD = {
    media.PNG: image("PNG"),
    media.JPEG: image("JPEG"),
    media.WEBP: image("WEBP"),
    media.PDF: PDF,
}


def archive(prefix: bytes = b"", comment: bytes = b"") -> bytes:
    out = io.BytesIO(prefix)
    with zipfile.ZipFile(out, "a") as one:
        one.writestr("evil.txt", "evil")
        one.comment = comment
    return out.getvalue()


@pytest.mark.parametrize("media_type", GOOD)
def test_each_kind_is_known_by_its_bytes(media_type: str) -> None:
    data = GOOD[media_type]
    assert media.check(data) == media_type
    assert media.check(data, media_type, None, "", f"{media_type.upper()}; charset=x") == media_type


def test_jpg_is_a_spelling_of_jpeg() -> None:
    assert media.check(GOOD[media.JPEG], "image/jpg") == media.JPEG


@pytest.mark.parametrize("claim", ["image/gif", "text/html", "image/svg+xml", "image/*"])
def test_no_other_type_is_taken(claim: str) -> None:
    with pytest.raises(Invalid, match="not supported"):
        media.check(GOOD[media.PNG], claim)


@pytest.mark.parametrize("media_type", GOOD)
def test_bytes_of_another_kind_are_refused(media_type: str) -> None:
    for claim, other in GOOD.items():
        if claim != media_type:
            with pytest.raises(Invalid, match="are not"):
                media.check(other, media_type)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg/>", b"RIFF\4\0\0\0WAVE", b" %PDF-1.4 %%EOF", b"\x89PNG"]
)
def test_bytes_of_no_known_kind_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="no supported kind"):
        media.check(data)


@pytest.mark.parametrize("media_type", GOOD)
def test_a_file_is_truncated_wherever_it_is_cut(media_type: str) -> None:
    data = GOOD[media_type].rstrip()
    for end in range(12, len(data)):
        with pytest.raises(Invalid, match="truncated"):
            media.check(data[:end])


@pytest.mark.parametrize("media_type", GOOD)
@pytest.mark.parametrize("more", [b"<script>", PDF, b"\x89PNG\r\n\x1a\n"])
def test_what_goes_on_behind_its_end_is_refused(media_type: str, more: bytes) -> None:
    data = GOOD[media_type] + more
    if media_type == media.PDF and more == PDF:
        assert media.check(data) == media.PDF  # an incremental update looks like that
    else:
        with pytest.raises(Invalid, match="behind its end"):
            media.check(data)


@pytest.mark.parametrize("media_type", GOOD)
def test_an_archive_behind_a_file_is_refused(media_type: str) -> None:
    with pytest.raises(Invalid):
        media.check(archive(GOOD[media_type]))


def test_an_archive_inside_of_a_whole_file_is_refused() -> None:
    """Its comment holds the file's own end, so both are whole."""
    with pytest.raises(Invalid, match="archive"):
        media.check(archive(PDF, b"\n%%EOF"))
    png, data = GOOD[media.PNG], archive(comment=b"\0\0\0\0" + GOOD[media.PNG][-12:])[:-16]
    chunk = struct.pack(">I", len(data)) + b"zIPp" + data + b"\0\0\0\0"
    with pytest.raises(Invalid, match="archive"):
        media.check(png[:-12] + chunk + png[-12:])


def test_a_jpeg_of_several_pictures_is_whole() -> None:
    """As phones write them: one behind the other, with zeros between."""
    jpeg = GOOD[media.JPEG]
    assert media.check(jpeg + b"\0\0\0" + jpeg) == media.JPEG
    with pytest.raises(Invalid, match="truncated"):
        media.check(jpeg + jpeg[:-2])


def test_an_image_of_endless_chunks_is_refused_in_time() -> None:
    with pytest.raises(Invalid, match="truncated"):
        media.check(GOOD[media.PNG][:8] + b"\0\0\0\0zIPpCCCC" * (media.SEGMENTS_MAX + 1))


def test_f47_a_file_has_at_most_10485760_bytes() -> None:
    padded = PDF[:-6] + b"\n" * (10_485_760 - len(PDF)) + b"%%EOF\n"
    assert len(padded) == 10_485_760
    assert media.check(padded) == media.PDF
    with pytest.raises(Invalid, match="10485760"):
        media.check(padded + b"\n")


@given(st.binary(max_size=100), st.sampled_from(["image/png", "application/pdf"]))
def test_a_data_url_is_read_back_as_it_was_built(data: bytes, media_type: str) -> None:
    assert media.parse_data_url(media.to_data_url(media_type, data)) == (media_type, data)


def test_a_data_url_may_be_escaped() -> None:
    assert media.parse_data_url("data:application/pdf,%25PDF-") == ("application/pdf", b"%PDF-")
    assert media.parse_data_url("data:image/png;x=y;base64,QQ%3D%3D") == ("image/png", b"A")
    assert media.parse_data_url("data:,") == ("", b"")


@pytest.mark.parametrize(
    "url", ["", "data:", "data:image/png;base64", "http://x,y", "data:image/png;base64,Q"]
)
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        media.parse_data_url(url)


def test_characters_that_are_not_base64_are_refused() -> None:
    with pytest.raises(Invalid, match="base64"):
        media.parse_data_url("data:image/png;base64,Q€Q=")


def test_a_data_url_of_too_many_bytes_is_refused_before_it_is_decoded() -> None:
    body = "!" * (media.FILE_BYTES_MAX * 2)
    with pytest.raises(Invalid, match="10485760"):
        media.parse_data_url(f"data:image/png;base64,{body}")
    whole = base64.b64encode(bytes(media.FILE_BYTES_MAX)).decode()
    assert len(media.parse_data_url(f"data:image/png;base64,{whole}")[1]) == media.FILE_BYTES_MAX


def test_an_id_says_whose_it_is_and_is_made_of_the_bytes() -> None:
    ann, bob = UserId("ann"), UserId("bob")
    id = media.file_id(ann, b"x")
    assert id == media.file_id(ann, b"x")
    assert len({id, media.file_id(ann, b"y"), media.file_id(bob, b"x"), media.file_id(None, b"x")}) == 4
    assert [media.belongs(id, user) for user in (ann, bob, None)] == [True, False, True]
    assert not media.belongs(media.file_id(None, b"x"), ann)
    assert media.is_whole(id, b"x")
    assert not media.is_whole(id, b"y")
    assert media.is_hash(id, sha256(b"x").hexdigest())
    assert not media.is_hash(id, sha256(b"y").hexdigest())


def test_no_user_can_be_called_like_the_tenant_itself() -> None:
    assert media.user_part(None) not in {media.user_part(UserId(name)) for name in ("", "None", "tenant")}


def test_an_id_is_read_back_from_its_url() -> None:
    id = media.file_id(None, b"x")
    assert media.id_in(media.url_of(id)) == id
    assert media.parse_file_id(id) == id
    for other in (id, f"https://elsewhere{media.url_of(id)}", media.url_of(id) + "/..", f"{media.URL}x", ""):
        assert media.id_in(other) is None

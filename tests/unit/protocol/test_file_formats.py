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
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import UserId

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\nstartxref\n9\n%%EOF\n"


def image(format: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, format)
    return out.getvalue()


GOOD = {
    file_formats.PNG: image("PNG"),
    file_formats.JPEG: image("JPEG"),
    file_formats.WEBP: image("WEBP"),
    file_formats.PDF: PDF,
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
    assert file_formats.check_file(data) == media_type
    assert (
        file_formats.check_file(data, media_type, None, "", f"{media_type.upper()}; charset=x") == media_type
    )


def test_jpg_is_a_spelling_of_jpeg() -> None:
    assert file_formats.check_file(GOOD[file_formats.JPEG], "image/jpg") == file_formats.JPEG


@pytest.mark.parametrize("claim", ["image/gif", "text/html", "image/svg+xml", "image/*"])
def test_no_other_type_is_taken(claim: str) -> None:
    with pytest.raises(Invalid, match="not supported"):
        file_formats.check_file(GOOD[file_formats.PNG], claim)


@pytest.mark.parametrize("media_type", GOOD)
def test_bytes_of_another_kind_are_refused(media_type: str) -> None:
    for claim, other in GOOD.items():
        if claim != media_type:
            with pytest.raises(Invalid, match="are not"):
                file_formats.check_file(other, media_type)


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg/>", b"RIFF\4\0\0\0WAVE", b" %PDF-1.4 %%EOF", b"\x89PNG"]
)
def test_bytes_of_no_known_kind_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="no accepted type"):
        file_formats.check_file(data)


@pytest.mark.parametrize("media_type", GOOD)
def test_a_file_is_truncated_wherever_it_is_cut(media_type: str) -> None:
    data = GOOD[media_type].rstrip()
    for end in range(12, len(data)):
        with pytest.raises(Invalid, match="truncated"):
            file_formats.check_file(data[:end])


@pytest.mark.parametrize("media_type", GOOD)
@pytest.mark.parametrize("more", [b"<script>", PDF, b"\x89PNG\r\n\x1a\n"])
def test_what_goes_on_behind_its_end_is_refused(media_type: str, more: bytes) -> None:
    data = GOOD[media_type] + more
    if media_type == file_formats.PDF and more == PDF:
        assert file_formats.check_file(data) == file_formats.PDF  # an incremental update looks like that
    else:
        with pytest.raises(Invalid, match="behind its end"):
            file_formats.check_file(data)


@pytest.mark.parametrize("media_type", GOOD)
def test_an_archive_behind_a_file_is_refused(media_type: str) -> None:
    with pytest.raises(Invalid):
        file_formats.check_file(archive(GOOD[media_type]))


def test_an_archive_inside_of_a_whole_file_is_refused() -> None:
    """Its comment holds the file's own end, so both are whole."""
    with pytest.raises(Invalid, match="archive"):
        file_formats.check_file(archive(PDF, b"\n%%EOF"))
    png, data = GOOD[file_formats.PNG], archive(comment=b"\0\0\0\0" + GOOD[file_formats.PNG][-12:])[:-16]
    chunk = struct.pack(">I", len(data)) + b"zIPp" + data + b"\0\0\0\0"
    with pytest.raises(Invalid, match="archive"):
        file_formats.check_file(png[:-12] + chunk + png[-12:])


def test_a_jpeg_of_several_pictures_is_whole() -> None:
    """As phones write them: one behind the other, with zeros between."""
    jpeg = GOOD[file_formats.JPEG]
    assert file_formats.check_file(jpeg + b"\0\0\0" + jpeg) == file_formats.JPEG
    with pytest.raises(Invalid, match="truncated"):
        file_formats.check_file(jpeg + jpeg[:-2])


def test_an_image_of_endless_chunks_is_refused_in_time() -> None:
    with pytest.raises(Invalid, match="truncated"):
        file_formats.check_file(
            GOOD[file_formats.PNG][:8] + b"\0\0\0\0zIPpCCCC" * (file_formats.SEGMENTS_MAX + 1)
        )


@pytest.mark.feature("F47")
def test_a_file_has_at_most_10485760_bytes() -> None:
    padded = PDF[:-6] + b"\n" * (10_485_760 - len(PDF)) + b"%%EOF\n"
    assert len(padded) == 10_485_760
    assert file_formats.check_file(padded) == file_formats.PDF
    with pytest.raises(Invalid, match="10485760"):
        file_formats.check_file(padded + b"\n")


@given(st.binary(max_size=100), st.sampled_from(["image/png", "application/pdf"]))
def test_a_data_url_is_read_back_as_it_was_built(data: bytes, media_type: str) -> None:
    assert file_formats.parse_data_url(file_formats.to_data_url(media_type, data)) == (media_type, data)


def test_a_data_url_may_be_escaped() -> None:
    assert file_formats.parse_data_url("data:application/pdf,%25PDF-") == ("application/pdf", b"%PDF-")
    assert file_formats.parse_data_url("data:image/png;x=y;base64,QQ%3D%3D") == ("image/png", b"A")
    assert file_formats.parse_data_url("data:,") == ("", b"")


@pytest.mark.parametrize(
    "url", ["", "data:", "data:image/png;base64", "http://x,y", "data:image/png;base64,Q"]
)
def test_what_is_no_data_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        file_formats.parse_data_url(url)


def test_characters_that_are_not_base64_are_refused() -> None:
    with pytest.raises(Invalid, match="base64"):
        file_formats.parse_data_url("data:image/png;base64,Q€Q=")


def test_a_data_url_of_too_many_bytes_is_refused_before_it_is_decoded() -> None:
    body = "!" * (file_formats.FILE_BYTES_MAX * 2)
    with pytest.raises(Invalid, match="10485760"):
        file_formats.parse_data_url(f"data:image/png;base64,{body}")
    whole = base64.b64encode(bytes(file_formats.FILE_BYTES_MAX)).decode()
    assert (
        len(file_formats.parse_data_url(f"data:image/png;base64,{whole}")[1]) == file_formats.FILE_BYTES_MAX
    )


def test_an_id_says_whose_it_is_and_is_made_of_the_bytes() -> None:
    ann, bob = UserId("ann"), UserId("bob")
    id = file_formats.file_id(ann, b"x")
    assert id == file_formats.file_id(ann, b"x")
    assert (
        len(
            {
                id,
                file_formats.file_id(ann, b"y"),
                file_formats.file_id(bob, b"x"),
                file_formats.file_id(None, b"x"),
            }
        )
        == 4
    )
    assert [file_formats.is_visible_to(id, user) for user in (ann, bob, None)] == [True, False, True]
    assert not file_formats.is_visible_to(file_formats.file_id(None, b"x"), ann)
    assert file_formats.matches(id, b"x")
    assert not file_formats.matches(id, b"y")
    assert file_formats.matches_digest(id, sha256(b"x").hexdigest())
    assert not file_formats.matches_digest(id, sha256(b"y").hexdigest())


def test_no_user_can_be_called_like_the_tenant_itself() -> None:
    assert file_formats.user_prefix(None) not in {
        file_formats.user_prefix(UserId(name)) for name in ("", "None", "tenant")
    }


def test_an_id_is_read_back_from_its_url() -> None:
    id = file_formats.file_id(None, b"x")
    assert file_formats.parse_file_url(file_formats.file_url(id)) == id
    assert file_formats.parse_file_id(id) == id
    for other in (
        id,
        f"https://elsewhere{file_formats.file_url(id)}",
        file_formats.file_url(id) + "/..",
        f"{file_formats.URL}x",
        "",
    ):
        assert file_formats.parse_file_url(other) is None

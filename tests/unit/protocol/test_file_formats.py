"""File types recognised by bytes, the end of each format, and data URLs."""

import base64
import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import FILE_BYTES_MAX

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\nstartxref\n9\n%%EOF\n"


def image(format: str) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, format)
    return out.getvalue()


GOOD = {
    file_formats.PNG: image("PNG"),
    file_formats.JPEG: image("JPEG"),
    file_formats.WEBP: image("WEBP"),
    file_formats.GIF: image("GIF"),
    file_formats.PDF: PDF,
}
IMAGES = [media_type for media_type in GOOD if media_type.startswith("image/")]


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


@pytest.mark.parametrize("claim", ["image/bmp", "application/zip", "image/svg+xml", "image/*", "text/a b"])
def test_no_other_type_is_taken(claim: str) -> None:
    with pytest.raises(Invalid, match="not supported"):
        file_formats.check_file(GOOD[file_formats.PNG], claim)


@pytest.mark.parametrize("claim", ["application/octet-stream", "binary/octet-stream"])
def test_a_sender_that_does_not_know_the_type_claims_none(claim: str) -> None:
    assert file_formats.check_file(PDF, claim, "application/pdf") == file_formats.PDF


@pytest.mark.parametrize("media_type", GOOD)
def test_bytes_of_another_kind_are_refused(media_type: str) -> None:
    for claim, other in GOOD.items():
        if claim != media_type:
            with pytest.raises(Invalid, match="are not"):
                file_formats.check_file(other, media_type)


@pytest.mark.parametrize(
    "data", [b"", b"GIF88a", b"<svg/>", b"RIFF\4\0\0\0WAVE", b" %PDF-1.4 %%EOF", b"\x89PNG"]
)
def test_bytes_of_no_known_kind_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="no accepted type"):
        file_formats.check_file(data)


@pytest.mark.parametrize("media_type", IMAGES)
def test_an_image_is_truncated_wherever_it_is_cut(media_type: str) -> None:
    data = GOOD[media_type]
    for end in range(12, len(data)):
        assert file_formats.trim(data[:end]) == data[:end]
        with pytest.raises(Invalid, match="truncated"):
            file_formats.check_file(data[:end])


@pytest.mark.feature("F46", "F120")
@pytest.mark.parametrize("data", [b"%PDF-1.4\n", PDF[:40], PDF + b"trailer", PDF + PDF])
def test_a_pdf_needs_its_signature_and_no_more(data: bytes) -> None:
    assert file_formats.trim(data) == data
    assert file_formats.check_file(data, "application/pdf") == file_formats.PDF


MOTION_PHOTO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500)
"""The beginning of a video, which phones put behind a JPEG."""


@pytest.mark.feature("F45", "F120")
@pytest.mark.parametrize("media_type", IMAGES)
@pytest.mark.parametrize("more", [b"\0", b"<script>", PDF, GOOD[file_formats.PNG], MOTION_PHOTO, b"SEFT"])
def test_what_is_behind_an_images_end_is_cut_off(media_type: str, more: bytes) -> None:
    whole = GOOD[media_type]
    assert file_formats.trim(whole + more) == whole
    assert file_formats.trim(whole) == whole
    assert file_formats.check_file(whole) == media_type
    with pytest.raises(Invalid, match="behind its end"):  # what was not cut is never stored
        file_formats.check_file(whole + more)


@pytest.mark.parametrize("media_type", IMAGES)
def test_no_archive_survives_behind_an_image(media_type: str) -> None:
    assert file_formats.trim(archive(GOOD[media_type])) == GOOD[media_type]


def test_an_archive_that_is_a_whole_file_as_well_is_refused() -> None:
    """Its end is the file's own end, so both are whole."""
    with pytest.raises(Invalid, match="archive"):
        file_formats.check_file(archive(PDF))
    png, data = GOOD[file_formats.PNG], archive(comment=b"\0\0\0\0" + GOOD[file_formats.PNG][-12:])[:-16]
    chunk = struct.pack(">I", len(data)) + b"zIPp" + data + b"\0\0\0\0"
    with pytest.raises(Invalid, match="archive"):
        file_formats.check_file(file_formats.trim(png[:-12] + chunk + png[-12:]))


def test_a_jpeg_of_several_pictures_is_whole_if_its_first_one_says_so() -> None:
    """As phones write them, with an index of all pictures (CIPA DC-007)."""
    out, first = io.BytesIO(), Image.linear_gradient("L").convert("RGB")
    first.save(out, "MPO", save_all=True, append_images=[first.rotate(90)])
    several = out.getvalue()
    for behind in (b"", b"\0\0\0", MOTION_PHOTO, GOOD[file_formats.JPEG][:-2]):
        assert file_formats.trim(several + behind) == several
    assert file_formats.check_file(several) == file_formats.JPEG
    jpeg = GOOD[file_formats.JPEG]
    assert file_formats.trim(jpeg + b"\0\0\0" + jpeg) == jpeg


def test_a_gif_of_several_frames_ends_behind_the_last_one() -> None:
    out, first = io.BytesIO(), Image.linear_gradient("L")
    first.save(out, "GIF", save_all=True, append_images=[first.rotate(90)], comment=b";;")
    assert file_formats.trim(out.getvalue() + b";") == out.getvalue()


TEXTS = {
    "text/plain": b"Hello from a text attachment.",
    "text/markdown": b"# Title\n- item 1",
    "text/csv": b"name,count\nalpha,1\n",
    "application/json": b'{"name":"alpha","count":1}',
    "text/html": b"<h1>Hello</h1>",
    "text/x-log": b"[info] boot\n[error] failure\n",
    "application/javascript": b'export const greeting = "hello";\n',
    "application/yaml": b"name: alpha\ncount: 1\n",
    "application/ld+json": b"{}",
    "text/x-c++": b"int main() {}",
}


@pytest.mark.feature("F46", "F120")
@pytest.mark.parametrize(("media_type", "data"), TEXTS.items())
def test_texts_are_known_by_what_they_are_called(media_type: str, data: bytes) -> None:
    assert file_formats.check_file(data, media_type) == media_type
    assert file_formats.check_file(data, None, f"{media_type};charset=utf-8") == media_type
    assert file_formats.check_file(data, media_type, "text/plain") == media_type
    with pytest.raises(Invalid, match="no accepted type"):
        file_formats.check_file(data)


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.md", "text/markdown"), ("b.tar.CSV", "text/csv"), ("c.json", "application/json")],
)
def test_a_browser_that_knows_no_type_of_a_text_sends_its_name(name: str, media_type: str) -> None:
    """Its `File.type` is empty, and its data URL says `application/octet-stream`."""
    assert file_formats.check_file(b"# a", "", "application/octet-stream", filename=name) == media_type
    with pytest.raises(Invalid, match="no accepted type"):
        file_formats.check_file(b"# a", "", "application/octet-stream", filename="a.exe")


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    "data", [b"\xff\xfea\0", b"a\0b", b"\x1b[31m", b"\x7f", "\u00e9".encode("latin-1"), b"\xed\xa0\x80"]
)
def test_a_text_is_utf_8_without_control_characters(data: bytes) -> None:
    with pytest.raises(Invalid, match="text"):
        file_formats.check_file(data, "text/plain")


def test_a_text_has_at_most_262144_bytes() -> None:
    assert file_formats.check_file(b"a" * 262_144, "text/plain") == "text/plain"
    with pytest.raises(Invalid, match="262144"):
        file_formats.check_file(b"a" * 262_145, "text/plain")


def test_a_text_is_read_without_its_mark_and_with_plain_line_breaks() -> None:
    assert file_formats.decode_text("\ufeffa\r\nb\rc\td".encode()) == "a\nb\nc\td"


def test_an_image_of_endless_chunks_is_refused_in_time() -> None:
    gif = b"GIF89a\1\0\1\0\0\0\0"
    for endless in (
        GOOD[file_formats.PNG][:8] + b"\0\0\0\0zIPpCCCC" * (file_formats.IMAGE_BLOCKS_MAX + 1),
        gif + b"!\1\0" * (file_formats.IMAGE_BLOCKS_MAX + 1) + b";",
        gif + b"!\1" + b"\1a" * (file_formats.IMAGE_BLOCKS_MAX + 1) + b"\0;",
    ):
        with pytest.raises(Invalid, match="truncated"):
            file_formats.check_file(endless)


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


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    "body",
    ["+/8A+w==", "-_8A-w==", "+/8A+w", "+/8A\r\n+w==\r\n", " +/8A\n\t+w=\n=", "+/8A%0A%2Bw%3D%3D"],
    ids=["plain", "url alphabet", "no padding", "MIME lines", "blanks", "escaped"],
)
def test_base64_is_taken_as_the_world_writes_it(body: str) -> None:
    assert file_formats.parse_data_url(f"data:image/png;base64,{body}") == ("image/png", b"\xfb\xff\0\xfb")


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
    for body in ("!" * (FILE_BYTES_MAX * 2), "AAAA\n" * (FILE_BYTES_MAX // 2)):
        with pytest.raises(Invalid, match="10485760"):
            file_formats.parse_data_url(f"data:image/png;base64,{body}")
    whole = base64.b64encode(bytes(FILE_BYTES_MAX)).decode()
    assert len(file_formats.parse_data_url(f"data:image/png;base64,{whole}")[1]) == FILE_BYTES_MAX

"""Images that are small on the wire and large for a decoder cost a gateway and other tenants nothing."""

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from rejoin_gateway.images import image_pool
from rejoin_gateway.images.image_cost import ImageCost, check_cost, measure
from rejoin_gateway.images.image_pool import ImagePool
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import IMAGE_MEMORY_BYTES_MAX, IMAGES_MEMORY_BYTES_MAX, MIB
from tests.support.data.costly_images import encoded, jpeg_with_scans, png_of, webp_of

PNG, JPEG, WEBP, GIF = (f"image/{name}" for name in ("png", "jpeg", "webp", "gif"))


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[ImagePool]:
    async with ImagePool() as started:
        yield started


@pytest.mark.parametrize(
    ("make", "media_type"),
    [
        (lambda: webp_of(16_000, 16_000), WEBP),
        (lambda: png_of(60_000, 60_000), PNG),
        (lambda: encoded(6_500, 6_500, "jpeg", progressive=True, subsampling=0), JPEG),
        (lambda: jpeg_with_scans(200), JPEG),
        (lambda: b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(20), GIF),
    ],
    ids=["webp", "png", "progressive jpeg", "scans", "gif"],
)
async def test_an_image_that_would_cost_too_much_is_refused_by_its_header_alone(
    pool: ImagePool, make: Callable[[], bytes], media_type: str
) -> None:
    with pytest.raises(Invalid, match="at most"):
        await pool.check(make(), media_type, "attacker")
    assert len(pool._idle) == 0, "no process was started for it"


@pytest.mark.parametrize(
    ("data", "media_type", "expected"),
    [
        (encoded(30, 20, "png"), PNG, ImageCost(30, 20, 4)),
        (encoded(30, 20, "png", "I;16"), PNG, ImageCost(30, 20, 8)),
        (encoded(30, 20, "jpeg"), JPEG, ImageCost(30, 20, 1)),
        (encoded(30, 20, "jpeg", progressive=True), JPEG, ImageCost(30, 20, 6, scans=10)),
        (encoded(30, 20, "webp"), WEBP, ImageCost(30, 20, 16)),
        (encoded(30, 20, "webp", lossless=True), WEBP, ImageCost(30, 20, 16)),
        (encoded(30, 20, "webp", "RGBA"), WEBP, ImageCost(30, 20, 16)),
        (encoded(30, 20, "gif"), GIF, ImageCost(30, 20, 8)),
    ],
)
def test_the_cost_of_an_image_is_read_from_its_header(
    data: bytes, media_type: str, expected: ImageCost
) -> None:
    assert measure(data, media_type) == expected


@pytest.mark.parametrize("media_type", [PNG, JPEG, WEBP, GIF])
@pytest.mark.parametrize("length", [0, 3, 12, 20, 26])
def test_a_damaged_header_is_refused(media_type: str, length: int) -> None:
    whole = encoded(30, 20, media_type.removeprefix("image/"))
    with pytest.raises(Invalid, match="damaged"):
        check_cost(whole[: min(length, 6 if media_type == GIF else length)], media_type)


def test_a_header_of_fill_bytes_is_read_in_linear_time() -> None:
    assert measure(b"\xff\xd8" + b"\xff" * (4 * MIB), JPEG) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "media_type"),
    [
        (lambda: encoded(3_000, 2_000, "png"), PNG),
        (lambda: encoded(3_000, 2_000, "webp", lossless=True), WEBP),
        (lambda: encoded(3_000, 2_000, "jpeg", progressive=True, subsampling=0), JPEG),
        (lambda: encoded(3_000, 2_000, "gif"), GIF),
    ],
    ids=["png", "webp", "jpeg", "gif"],
)
def test_no_image_takes_more_memory_than_its_header_says(
    make: Callable[[], bytes], media_type: str, tmp_path: Path
) -> None:
    """Measured in a process of its own, by the system's own count."""
    path, data = tmp_path / "image", make()
    path.write_bytes(data)
    script = f"""
import sys; sys.path.insert(0, {str(image_pool.DECODER.parent)!r})
import decoder
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
data, before = open({str(path)!r}, "rb").read(), peak()
assert decoder.decode(data, {media_type!r}) == ""
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    cost = measure(data, media_type)
    assert cost is not None
    assert int(run.stdout) <= cost.memory_bytes + 12 * MIB


async def test_a_process_that_takes_too_much_memory_is_ended_and_the_next_image_is_checked(
    pool: ImagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the estimate by its header were wrong."""
    monkeypatch.setattr(image_pool, "PROCESS_LIMITS", (str(100 * MIB), "5"))
    with pytest.raises(Invalid, match="memory"):
        await pool.check(encoded(5_000, 5_000, "png"), PNG, "attacker")
    await pool.check(encoded(1, 1, "png"), PNG, "other")


@pytest.mark.slow
async def test_a_picture_of_many_scans_ends_at_its_cpu_time_while_another_tenants_image_does_not_wait(
    pool: ImagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pool, "check_cost", measure)
    monkeypatch.setattr(image_pool, "PROCESS_LIMITS", (str(IMAGE_MEMORY_BYTES_MAX * 2), "1"))
    bomb, clock = jpeg_with_scans(2_000), asyncio.get_running_loop().time
    async with asyncio.TaskGroup() as group:
        bombs = [group.create_task(_refusal(pool, bomb)) for _ in range(4)]
        await asyncio.sleep(0.5)
        started_s = clock()
        await pool.check(encoded(1, 1, "png"), PNG, "other")
        waited_s = clock() - started_s
        assert not all(one.done() for one in bombs)
    assert all("too long" in one.result() for one in bombs)
    assert waited_s < 2


async def _refusal(pool: ImagePool, data: bytes) -> str:
    with pytest.raises(Invalid) as refusal:
        await pool.check(data, JPEG, "attacker")
    return str(refusal.value)


async def test_whoever_no_longer_waits_leaves_no_process_behind(
    pool: ImagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pool, "check_cost", measure)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await pool.check(jpeg_with_scans(2_000), JPEG, "attacker")
    mine = [child for child in psutil.Process(os.getpid()).children() if "decoder.py" in str(child.cmdline())]
    assert mine == []
    await pool.check(encoded(1, 1, "png"), PNG, "attacker")


async def test_the_images_that_are_decoded_together_keep_to_one_bound_of_memory(
    pool: ImagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the largest would take more than a container has. A small one does not wait for them."""
    held, peak, ended, small = 0, 0, asyncio.Semaphore(0), asyncio.Event()

    async def decode(pool: ImagePool, data: bytes, media_type: str) -> str:
        nonlocal held, peak
        del pool
        cost = measure(data, media_type)
        assert cost is not None
        if cost.width == 1:
            small.set()
            return ""
        held += cost.memory_bytes
        peak = max(peak, held)
        await ended.acquire()
        held -= cost.memory_bytes
        return ""

    monkeypatch.setattr(ImagePool, "_decode", decode)
    async with asyncio.TaskGroup() as group:
        for tenant in ("one", "two", "three"):
            group.create_task(pool.check(_png_head(7_000, 7_000), PNG, tenant))
        group.create_task(pool.check(_png_head(1, 1), PNG, "four"))
        await small.wait()
        assert held > 0, "a large one is decoded meanwhile"
        for _ in range(3):
            ended.release()
    assert IMAGE_MEMORY_BYTES_MAX * 0.9 < peak <= IMAGES_MEMORY_BYTES_MAX


def _png_head(width: int, height: int) -> bytes:
    """As much of a PNG as its cost is computed from."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) + bytes(4)

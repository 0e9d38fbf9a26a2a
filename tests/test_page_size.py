"""Sizes hold on machines with pages of 64 KiB (arm64, ppc64), where 4 KiB is no page."""

import mmap

import pytest

from etcpipe import ring
from etcpipe.errors import UsageError
from etcpipe.kernel.build import Build
from etcpipe.kernel.settings import TapSettings
from etcpipe.layout import CONSTANTS

PAGE = 65536


@pytest.fixture(autouse=True)
def large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "PAGESIZE", PAGE)


@pytest.mark.parametrize("size", [4096, 32768, 65537, 3 * PAGE])
def test_a_ring_of_records_is_whole_pages(size: int) -> None:
    with pytest.raises(UsageError, match="a power of two from 65536"):
        TapSettings(capture="ringbuf", ringbuf_bytes=size)


def test_the_default_ring_of_records_fits() -> None:
    settings = TapSettings(capture="ringbuf")
    assert settings.ringbuf_bytes % PAGE == 0
    assert Build(settings, 1, 2).map_sizes()["packet_records"] == settings.ringbuf_bytes


def test_an_unused_ring_of_records_is_one_page() -> None:
    assert Build(TapSettings(), 1, 2).map_sizes()["packet_records"] == PAGE


@pytest.mark.parametrize("frame_size", [2048, 4096, 65536])
def test_frames_may_be_a_page_at_most(frame_size: int) -> None:
    ring._check_sizes(16_384, frame_size, 8_192)
    with pytest.raises(UsageError, match="65536"):
        ring._check_sizes(16_384, 2 * PAGE, 8_192)


def test_the_default_frames_do_not_grow_with_pages() -> None:
    assert ring.FRAME_SIZE == 2048  # 32 MiB of frames, not 1 GiB


def test_a_mirrored_packet_fits_in_a_frame() -> None:
    headroom = 256  # XDP_PACKET_HEADROOM, which the kernel keeps free
    assert CONSTANTS["SNAP_LEN_DEFAULT"] + headroom <= ring.FRAME_SIZE

"""Both rings against a thread that plays the kernel: nothing lost, nothing read too early.

ThreadSanitizer judges by the language's memory model, so that it sees on x86-64 what would
only go wrong on arm64; tools/arm64/test runs the same program there.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command import ROOT

NATIVE = ROOT / "etcpipe" / "native"
SOURCES = ("xsk.c", "ringbuf.c")
PACKETS = "50000"
SANITIZER = "-fsanitize=thread"
EXIT_RACE = 66

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


def build(folder: Path, sources: list[Path]) -> Path:
    """Build the program with these versions of the consumers; skip where there is no TSan."""
    program = folder / "rings"
    flags = f"-std=gnu11 -O1 -g -Wall -Wextra -Werror -pthread {SANITIZER}".split()
    includes = ["-I", ROOT / "bpf", "-I", NATIVE]
    command = ["gcc", *flags, *includes, ROOT / "tests/rings/rings.c", *sources, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "-ltsan" in done.stderr:
        pytest.skip("gcc has no thread sanitizer")
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, ring: str) -> subprocess.CompletedProcess:
    return subprocess.run([program, ring, PACKETS], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("rings"), [NATIVE / name for name in SOURCES])


@pytest.mark.parametrize("ring", ["xsk", "ringbuf"])
def test_packets_arrive_once_in_order_and_whole(program: Path, ring: str) -> None:
    done = run(program, ring)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout == f"{ring}: {PACKETS} packets, each once, in order and whole\n"


ORDER = re.compile(r"__ATOMIC_(ACQUIRE|RELEASE)")
# a stale position there is harmless: whether a record is ready, its own header says
SPARE = "r->producer"
ORDERS = [
    pytest.param(name, found.start(), id=f"{name} {turn}, {found[1].lower()}")
    for name in SOURCES
    for turn, found in enumerate(ORDER.finditer((NATIVE / name).read_text()))
    if SPARE not in (NATIVE / name).read_text()[: found.start()].rsplit("\n", 1)[1]
]


@pytest.mark.parametrize(("name", "at"), ORDERS)
def test_a_weaker_order_is_a_race(tmp_path: Path, name: str, at: int) -> None:
    """It would still be right on x86-64, and is not on arm64."""
    text = (NATIVE / name).read_text()
    (tmp_path / name).write_text(text[:at] + ORDER.sub("__ATOMIC_RELAXED", text[at:], count=1))
    sources = [tmp_path / name, *(NATIVE / other for other in SOURCES if other != name)]
    done = run(build(tmp_path, sources), name.removesuffix(".c"))
    assert done.returncode == EXIT_RACE
    assert "WARNING: ThreadSanitizer: data race" in done.stderr

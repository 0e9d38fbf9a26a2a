"""Write the fuzzer's first inputs into a folder: one packet of each kind that the tests have.

python tests/fuzz/corpus.py FOLDER [PCAP...]
"""

import sys
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_bpf_parsing import EVERYTHING, NOTHING, TABLE, fragments

from etcpipe.capture import Capture
from etcpipe.parsing import parse_bits

KINDS_A_CAPTURE = 200
FRAME_MAX = 1000  # bytes of a frame: the fuzzer takes 1024 in all


def heads() -> list[bytes]:
    """Return what stands before a frame in an input: options, link type, TCI, bytes cut off."""
    return [bytes([options, 0, 0xFF, 0xFF, 0]) for options in (0, parse_bits(**EVERYTHING))]


def frames(paths: list[str]) -> list[bytes]:
    """Return the frames of the tests' table, and some of each capture."""
    found = [case[0] for case in (*TABLE.values(), *NOTHING.values())]
    found += [frame for version in (4, 6) for frame in fragments(version)]
    for path in paths:
        found += kinds(path)
    return found


def kinds(path: str) -> list[bytes]:
    """Return one frame of each length that a capture's flows have, up to a limit."""
    found: dict[int, bytes] = {}
    for batch in Capture([path], count="all"):
        for row, length in enumerate(batch.wire_len.tolist()):
            found.setdefault(length, batch.frame(row).tobytes()[:FRAME_MAX])
    return list(found.values())[:KINDS_A_CAPTURE]


def main(folder: str, *paths: str) -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for head in heads():
        for frame in frames(list(paths)):
            name = sha256(head + frame).hexdigest()[:16]
            (target / name).write_bytes(head + frame)


if __name__ == "__main__":
    main(*sys.argv[1:])

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

PACKETS_A_CAPTURE = 200


def heads() -> list[bytes]:
    """Return what stands before a frame in an input: options, link type, TCI, bytes cut off."""
    return [bytes([options, 0, 0xFF, 0xFF, 0]) for options in (0, parse_bits(**EVERYTHING))]


def frames(paths: list[str]) -> list[bytes]:
    """Return the frames of the tests' table, and the first ones of some captures."""
    found = [case[0] for case in (*TABLE.values(), *NOTHING.values())]
    found += [frame for version in (4, 6) for frame in fragments(version)]
    for path in paths:
        batch = next(iter(Capture([path], count="all")))
        found += [batch.frame(i).tobytes() for i in range(min(len(batch), PACKETS_A_CAPTURE))]
    return found


def main(folder: str, *paths: str) -> None:
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for head in heads():
        for frame in frames(list(paths)):
            name = sha256(head + frame).hexdigest()[:16]
            (target / name).write_bytes(head + frame)


if __name__ == "__main__":
    main(*sys.argv[1:])

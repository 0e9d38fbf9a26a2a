"""Read and classify captures, and copies of them that are cut or damaged.

python tests/fuzz/captures.py FOLDER... [--copies N] [--seed N]

Whatever is in a file, it is read without a crash: the only errors are ours, with a line that
says why; each packet is counted under one outcome, and each flow has one verdict.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_capture_errors import accounted

import etcpipe
from etcpipe.capture import Capture
from etcpipe.errors import EtcpipeError

ENDINGS = (".pcap", ".pcapng", ".cap")
READINGS = ({}, {"decap": True, "key_vlan": True, "key_tunnel": True}, {"count": "all"})
COPY_BYTES_MAX = 4_000_000  # of a copy; the captures themselves are read whole
DAMAGES_MAX = 40


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Return a capture that is cut at a random place, or has random bytes in others."""
    content = content[:COPY_BYTES_MAX]
    if dice.random() < 0.5:
        return content[: dice.randrange(len(content) + 1)]
    copy = bytearray(content)
    for _ in range(dice.randint(1, DAMAGES_MAX)):
        copy[dice.randrange(len(copy))] = dice.randrange(256)
    return bytes(copy)


def check(path: Path) -> str:
    """Read a capture in all ways; return how that ended."""
    try:
        for options in READINGS:
            capture = Capture([path], **options)
            for batch in capture:
                assert (batch.captured <= batch.wire_len).all()
            assert accounted(capture)
        classification = etcpipe.classify(path)
        flows = sum(len(verdicts) for verdicts in classification)
        counters = classification.counters()
        assert flows == counters["FLOWS_CREATED"] + counters["FLOWS_RESTARTED"]
    except EtcpipeError as error:
        assert "\n" not in str(error)
        return "refused"
    return "read in part" if classification.warnings else "read"


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--copies", type=int, default=3, help="of each capture")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    dice = random.Random(given.seed)
    paths = sorted(path for folder in given.folders for path in folder.rglob("*"))
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.pcap"
        for path in paths:
            if path.suffix not in ENDINGS or not path.stat().st_size:
                continue
            ends[f"whole: {check(path)}"] += 1
            content = path.read_bytes()
            for number in range(given.copies):
                copy.write_bytes(damaged(content, dice))
                try:
                    ends[f"copies: {check(copy)}"] += 1
                except BaseException:
                    kept = Path(f"failed-{path.name}-{number}")
                    print(f"{path}: {kept} is the copy that failed", file=sys.stderr)
                    kept.write_bytes(copy.read_bytes())
                    raise
    print("\n".join(f"{count:6}  {end}" for end, count in sorted(ends.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

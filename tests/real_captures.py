"""Captures of real traffic that the tests find on this machine."""

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

# Folders beside those below, separated by colons: tools/ndpi_captures fills one. No name with
# ETCPIPE_: those set options, and any of them changes how `show` starts.
VARIABLE = "TEST_CAPTURES"

# The project's own recordings, and public captures if they lie beside the project.
PLACES = (_ROOT / "tests" / "data", _ROOT.parent / "shared" / "data" / "raw")
ENDINGS = (".pcap", ".pcapng", ".cap")


def real_captures() -> list[Path]:
    """Return the capture files of all places, sorted by name; what lies twice is there once."""
    named = [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    for place in named:
        if not place.is_dir():
            raise FileNotFoundError(f"{VARIABLE} names {place}, which is no folder")
    found = {
        (path.name, path.stat().st_size): path
        for place in (*named, *PLACES)
        for path in place.rglob("*")
        if path.suffix in ENDINGS and path.is_file()
    }
    return [found[key] for key in sorted(found)]

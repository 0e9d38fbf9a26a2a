"""Captures of real traffic that the tests find on this machine."""

from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

# The project's own recordings, and public captures if they lie beside the project.
PLACES = (_ROOT / "tests" / "data", _ROOT.parent / "shared" / "data" / "raw")


def real_captures() -> list[Path]:
    """Return the pcap and pcapng files of all places, sorted by name."""
    found = [path for place in PLACES for path in place.rglob("*.pcap*") if path.is_file()]
    return sorted(found, key=lambda path: path.name)

"""Labelled live traffic of real programs in network namespaces.

    with Lab(kinds=["ssh_shell", "https_page"], seed=1) as lab:
        for session in lab.run(sessions=3):
            print(session)

The demo, the tests and the training data come from here; docs/lab.md tells more.
"""

from etcpipe.lab.kind import MARKER, Kind
from etcpipe.lab.kinds import KINDS
from etcpipe.lab.lab import Lab, Session
from etcpipe.lab.leftovers import remove_stale_labs
from etcpipe.lab.record import RecordSummary, record
from etcpipe.lab.requirements import missing
from etcpipe.lab.truth import Truth, label_of, read_truth

__all__ = [
    "KINDS",
    "MARKER",
    "Kind",
    "Lab",
    "RecordSummary",
    "Session",
    "Truth",
    "label_of",
    "missing",
    "read_truth",
    "record",
    "remove_stale_labs",
]

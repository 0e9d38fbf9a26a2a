"""Packets of flows without a name: which are kept, in how much memory, in which files."""

from types import SimpleNamespace

import numpy as np
import pytest
from captures import pcap
from labelled import ethernet_udp

from etcpipe.capture import Capture
from etcpipe.errors import OutputError
from etcpipe.unknown import UnknownFlows
from etcpipe.verdict import EVENT_EARLY, EVENT_VERDICT


def frames(count):
    """Packets of flows 1, 2, 3, 1, 2, 3 .., each a millisecond after the one before."""
    ends = "198.18.0.1", "198.18.0.2"
    return [
        (10**18 + i * 10**6, ethernet_udp(*ends, (1000 + i % 3, 4433), 100 + i))
        for i in range(count)
    ]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap(frames(12), nanoseconds=True))
    return Capture([path], 10)


def verdicts(flow_id, label):
    flows = SimpleNamespace(flow_id=np.array(flow_id, np.uint64))
    event = np.full(len(label), EVENT_VERDICT, np.uint8)
    return SimpleNamespace(flows=flows, label=np.array(label, np.int16), event=event)


def keep_all(unknown, source):
    for batch in source:
        unknown.keep(batch)


def saved(folder):
    paths = sorted(folder.glob("*.pcap"))
    found = []
    for batch in Capture(paths, 64):
        found += [(int(batch.timestamp_ns[i]), bytes(batch.frame(i))) for i in range(len(batch))]
    return found


def test_packets_of_flows_without_a_name_are_saved_as_they_came(source, tmp_path):
    unknown = UnknownFlows(tmp_path / "ring")
    keep_all(unknown, source)
    unknown.take(verdicts([1, 2, 3], [0, -1, 4]))
    assert saved(tmp_path / "ring") == [frames(12)[i] for i in (1, 4, 7, 10)]
    assert unknown.counters() == {"UNKNOWN_SAVED": 1, "UNKNOWN_MISSED": 0}


def test_what_is_no_longer_in_memory_is_counted(source, tmp_path):
    unknown = UnknownFlows(tmp_path / "ring", memory_bytes=1)
    keep_all(unknown, source)
    unknown.take(verdicts([1], [-1]))
    assert unknown.counters() == {"UNKNOWN_SAVED": 0, "UNKNOWN_MISSED": 1}
    assert not list((tmp_path / "ring").iterdir())


def test_the_oldest_file_makes_room_and_a_new_run_goes_on(source, tmp_path):
    """Files of one packet each: two stay, those that came last."""
    folder = tmp_path / "ring"
    unknown = UnknownFlows(folder, files=2, file_bytes=1)
    keep_all(unknown, source)
    unknown.take(verdicts([1], [-1]))
    assert sorted(path.name for path in folder.iterdir()) == [
        "unknown-000003.pcap",
        "unknown-000004.pcap",
    ]
    assert saved(folder) == [frames(12)[i] for i in (6, 9)]
    again = UnknownFlows(folder, files=2, file_bytes=1)
    again.keep(next(iter(Capture([tmp_path / "in.pcap"], 10))))
    again.take(verdicts([3], [-1]))
    assert sorted(path.name for path in folder.iterdir())[-1] == "unknown-000008.pcap"


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file: "):
        UnknownFlows(tmp_path / "file")


def test_a_folder_that_goes_is_said_once_and_comes_back(source, tmp_path, caplog):
    unknown = UnknownFlows(tmp_path / "ring", memory_bytes=1 << 20)
    keep_all(unknown, source)
    (tmp_path / "ring").rmdir()
    for flow_id in (1, 2):
        unknown.take(verdicts([flow_id], [-1]))
    assert caplog.text.count("unknown flows are missed") == 1
    (tmp_path / "ring").mkdir()
    unknown.take(verdicts([3], [-1]))
    assert unknown.counters() == {"UNKNOWN_SAVED": 1, "UNKNOWN_MISSED": 2}
    assert saved(tmp_path / "ring") == [frames(12)[i] for i in (2, 5, 8, 11)]


def test_after_a_full_disk_a_new_file_begins(source, tmp_path, caplog):
    """The one before may end within a packet."""
    folder = tmp_path / "ring"
    unknown = UnknownFlows(folder)
    keep_all(unknown, source)
    (folder / "unknown-000001.pcap").symlink_to("/dev/full")
    unknown.take(verdicts([1], [-1]))
    (folder / "unknown-000001.pcap").unlink()
    unknown.take(verdicts([2], [-1]))
    assert caplog.messages == [
        f"cannot write {folder}: No space left on device; unknown flows are missed"
    ]
    assert [path.name for path in folder.iterdir()] == ["unknown-000002.pcap"]
    assert saved(folder) == [frames(12)[i] for i in (1, 4, 7, 10)]


def test_an_early_answer_is_not_the_last_word(source, tmp_path):
    unknown = UnknownFlows(tmp_path / "ring")
    keep_all(unknown, source)
    early = verdicts([1], [-1])
    early.event[:] = EVENT_EARLY
    unknown.take(early)
    assert unknown.counters() == {"UNKNOWN_SAVED": 0, "UNKNOWN_MISSED": 0}

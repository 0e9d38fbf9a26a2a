"""A dataset's folder holds what reading gives, says what it is, and notices what is wrong."""

import json

import numpy as np
import pytest
from captures import ether, pcap, tcp, udp, write
from labelled import write_recordings

from etcpipe import dataset as datasets
from etcpipe.dataset import Input, folder, payload
from etcpipe.errors import CaptureError, UsageError


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="module")
def built(recordings, tmp_path_factory):
    place = tmp_path_factory.mktemp("built") / "sizes"
    datasets.build(datasets.find_recordings(recordings), place, Input(), ["tok"])
    return place


def test_a_folder_holds_what_reading_gives(recordings, built):
    read = datasets.read(datasets.find_recordings(recordings), Input(), views=["tok"])
    opened = datasets.open_folder(built)
    assert isinstance(opened.stats, np.memmap)  # not in memory
    assert opened.digest() == read.digest()
    for name in ("host", "first_us", "payload"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(read, name))
    assert (opened.captures, opened.unlabelled) == (read.captures, read.unlabelled)


def test_the_manifest_says_what_the_rows_are(recordings, built):
    manifest = datasets.read_manifest(built)
    assert (manifest.input, manifest.mask) == (Input(), "strict")
    assert manifest.views == ("stats", "seq", "tok") and manifest.flows == 120
    assert manifest.classes == ("large", "small") and manifest.skipped == {}
    assert len(set(manifest.digests)) == 4
    folder.verify(built)


def test_who_talks_is_a_group_and_when_is_noted(built):
    dataset = datasets.open_folder(built)
    assert len(np.unique(dataset.host)) == 2  # one client, two servers
    assert (dataset.host[dataset.label == 0] != dataset.host[dataset.label == 1][0]).all()
    assert dataset.first_us.min() >= 0 and dataset.first_us.max() < 15_000_000
    assert len(np.unique(dataset.groups("flow"))) == len(dataset)
    with pytest.raises(UsageError, match="no split 'packet'"):
        dataset.groups("packet")


def test_a_capture_that_cannot_be_read_is_left_out_and_named(recordings, tmp_path):
    found = datasets.find_recordings(recordings)
    bad = datasets.Recording(write(tmp_path / "bad.pcap", b"no capture"), found[0].label)
    manifest = datasets.build([bad, *found], tmp_path / "built", Input())
    assert list(manifest.skipped) == [str(bad.path)]
    assert manifest.flows == 120 and str(bad.path) not in manifest.captures
    assert not list(tmp_path.glob(".*part"))


def test_a_capture_that_cannot_be_read_ends_a_reading_with_what_to_do(recordings, tmp_path):
    found = datasets.find_recordings(recordings)
    bad = datasets.Recording(write(tmp_path / "bad.pcap", b"no capture"), found[0].label)
    with pytest.raises(
        CaptureError, match=r"bad\.pcap.*begin with `etcpipe dataset build`"
    ) as raised:
        datasets.read([bad, *found], Input())
    assert "\n" not in str(raised.value)


def test_nothing_is_left_of_a_build_without_labels(recordings, tmp_path):
    mute = [datasets.Recording(recordings / "0.pcap", lambda flow: None)]
    with pytest.raises(UsageError, match="no flow of these captures has a label"):
        datasets.build(mute, tmp_path / "built", Input())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def damaged(recordings, tmp_path):
    datasets.build(datasets.find_recordings(recordings)[:1], tmp_path / "built", Input())
    return tmp_path / "built"


def test_a_changed_file_is_noticed(damaged):
    with (damaged / "seq.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(UsageError, match=r"seq\.npy is not what was written"):
        folder.verify(damaged)


def test_a_cut_file_is_refused(damaged):
    file = damaged / "seq.npy"
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(UsageError, match=r"seq\.npy is missing or damaged"):
        datasets.open_folder(damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "of format 2"),
        (lambda m: m["input"].update(first_n=5), "means something else now"),
        (lambda m: m.pop("classes"), "damaged"),
    ],
)
def test_a_manifest_of_something_else_is_refused(damaged, change, message):
    manifest = json.loads((damaged / "manifest.json").read_text())
    change(manifest)
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=message):
        datasets.open_folder(damaged)


def test_labels_may_lie_elsewhere(recordings, tmp_path):
    labels = tmp_path / "mine.csv"
    labels.write_text(
        "capture,label,address,protocol,port\n1.pcap,a,198.18.0.1,*,*\n2.pcap,b,198.18.0.2,*,*\n"
    )
    dataset = datasets.read(datasets.find_labelled([recordings], labels), Input())
    assert dataset.classes == ("a", "b") and len(dataset) == 30 and dataset.unlabelled == 30
    labels.write_text(labels.read_text().replace("2.pcap", "typo.pcap"))
    with pytest.raises(UsageError, match=r"no capture typo\.pcap in"):
        datasets.find_labelled([recordings], labels)


FIRST_PAYLOADS = {
    "tls": (tcp(b"\x16\x03\x01\x02\x00" + bytes(100)), "encrypted"),
    "quic": (udp(b"\xc3\0\0\0\x01\x08" + bytes(100)), "encrypted"),
    "ssh": (tcp(b"SSH-2.0-OpenSSH_9.6\r\n"), "encrypted"),
    "http": (tcp(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), "plain"),
    "dns": (udp(bytes(30), dport=53), "plain"),
    "noise": (udp(bytes(range(128, 228))), "binary"),
}


@pytest.mark.parametrize("name", FIRST_PAYLOADS)
def test_the_first_payload_is_told_apart(name, tmp_path):
    packet, kind = FIRST_PAYLOADS[name]
    capture = write(tmp_path / "one.pcap", pcap([(10**9, ether(packet))]))
    dataset = datasets.read(datasets.find_captures(capture), Input())
    assert [payload.KINDS[one] for one in dataset.payload] == [kind]


def test_a_flow_that_ended_early_keeps_its_first_packet(tmp_path):
    """The SYN is not counted; the tuple begins a new flow before the old one is complete."""
    syn, data = ether(tcp(flags=2)), ether(tcp(b"x" * 20))
    packets = [(10**9, syn), (2 * 10**9, data), (2_100_000_000, ether(tcp(flags=4)))]
    packets += [(2_200_000_000, syn), (2_300_000_000, data)]
    capture = write(tmp_path / "two.pcap", pcap(packets))
    dataset = datasets.read(datasets.find_captures(capture), Input())
    assert sorted(dataset.first_us.tolist()) == [1_000_000, 2_200_000]

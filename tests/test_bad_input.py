"""What a user may get wrong: one clear line, the right exit status, nothing left behind."""

import json
import os
import signal
import struct
import threading
import time
from importlib.resources import files
from pathlib import Path

import pytest
from command import LAB, ROOT, Running, fails, run

from etcpipe.gpu.views import VIEWS, schema_hash

CAPTURE = LAB / "lab-1.pcap"
MODEL = files("etcpipe") / "models" / "default.onnx"
IEEE_802_15_4 = 195
# Runs as root without a single capability, so that files stay readable and rights are gone.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def global_header(link_type: int) -> bytes:
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link_type)


BAD_CAPTURES = {
    "empty": (b"", "empty"),
    "foreign": (b"%PDF-1.7\n" + bytes(200), "not a"),
    "half a header": (global_header(1)[:20], ""),
    "of an unsupported link type": (
        global_header(IEEE_802_15_4) + struct.pack("<IIII", 1, 0, 4, 4) + b"abcd",
        "link type",
    ),
}


@pytest.mark.parametrize(("contents", "message"), BAD_CAPTURES.values(), ids=BAD_CAPTURES)
def test_capture_that_cannot_be_read(contents, message, tmp_path):
    capture = tmp_path / "bad.pcap"
    capture.write_bytes(contents)
    line = fails("-j", "classify", capture, inside=True, status=1)
    assert str(capture) in line
    assert message in line


def test_capture_that_is_not_there(tmp_path):
    missing = tmp_path / "none.pcap"
    line = fails("-j", "classify", missing, status=1)
    assert line == f"{missing}: no such file or directory"


def test_folder_as_capture(tmp_path):
    assert str(tmp_path) in fails("-j", "classify", tmp_path, inside=True, status=1)


def test_bad_capture_leaves_no_output_behind(tmp_path):
    output = tmp_path / "flows.csv"
    fails("-j", "classify", tmp_path / "none.pcap", "-o", output, inside=True, status=1)
    assert not output.exists()


def damaged(model: bytes) -> bytes:
    middle = len(model) // 2
    return model[:middle] + bytes([model[middle] ^ 0xFF]) + model[middle + 1 :]


def described_otherwise(model: bytes) -> bytes:
    """The model with another schema hash in its description, sealed as if made that way."""
    import hashlib
    import re

    description = re.search(rb'"schema_hash": "(\w+)"', model)
    wrong = model.replace(description[1], b"0" * len(description[1]))
    seal = re.search(rb"etcpipe\.sha256\x12\x40([0-9a-f]{64})", wrong)
    unsealed = wrong.replace(seal[1], b"0" * 64)
    return unsealed.replace(b"0" * 64, hashlib.sha256(unsealed).hexdigest().encode(), 1)


BAD_MODELS = {
    "empty": (lambda model: b"", ""),
    "foreign": (lambda model: b"\x7fELF" + bytes(100), ""),
    "cut": (lambda model: model[: len(model) // 2], ""),
    "damaged": (damaged, ""),
    "another program's": (lambda model: model.replace(b"\x07etcpipe", b"\x07someone"), ""),
    "of another schema": (described_otherwise, "schema"),
}


@pytest.mark.parametrize(("change", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_model_that_cannot_be_used(change, message, tmp_path):
    model = tmp_path / "bad.onnx"
    model.write_bytes(change(MODEL.read_bytes()))
    line = fails("-j", "classify", CAPTURE, "-m", model, inside=True, status=1)
    assert str(model) in line
    assert message in line


def test_model_that_is_not_there():
    assert "no model nothing.onnx" in fails(
        "-j", "classify", CAPTURE, "-m", "nothing.onnx", status=1
    )


def test_schema_hash_moves_with_what_it_describes():
    # The check behind "of another schema" is only worth something if hashes differ.
    hashes = {
        schema_hash(VIEWS["stats"], n, mask, None) for n in (9, 10) for mask in ("strict", "none")
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--first", "0"], "'--first': 0 is not in the range 1<=x<=64"),
        (["--first", "65"], "'--first': 65 is not in the range 1<=x<=64"),
        (["--first", "1"], "needs 50 packets"),
        (["--first", "ten"], "not a valid integer"),
        (["--wait", "0"], "'--wait': 0.0 is not in the range 0<x<=86400"),
        (["--wait", "-1"], "'--wait': -1.0 is not in the range 0<x<=86400"),
        (["--wait", "nan"], "out of range"),
        (["--filter", "tcp port http-ish"], "filter"),
    ],
)
def test_setting_out_of_range(arguments, message):
    assert message in fails("-j", "classify", CAPTURE, *arguments, inside=True, status=2)


def test_output_that_cannot_be_written(tmp_path):
    target = tmp_path / "none" / "flows.jsonl"
    assert fails("-j", "classify", CAPTURE, "-o", target, status=1) == (
        f"cannot write {target}: No such file or directory"
    )


def test_disk_that_fills_up(tmp_path):
    target = tmp_path / "flows.csv"
    target.symlink_to("/dev/full")
    done = run("classify", CAPTURE, "-o", target, check=1)
    assert done.stderr == f"etcpipe: cannot write {target}: No space left on device\n"


def test_interrupted_classify_keeps_what_it_has(tmp_path):
    pipe, output = tmp_path / "capture", tmp_path / "flows.jsonl"
    os.mkfifo(pipe)
    stop = threading.Event()
    feeder = threading.Thread(target=_feed, args=(pipe, CAPTURE.read_bytes(), stop))
    feeder.start()
    with Running("-j", "classify", pipe, "-o", output, folder=tmp_path) as etcpipe:
        etcpipe.until(output.exists)
        time.sleep(0.5)
        status = etcpipe.signalled(signal.SIGINT)
        stop.set()
        feeder.join()
    assert status == 130
    assert etcpipe.stderr.splitlines() == [
        "etcpipe: warning: interrupted: these are the flows up to here"
    ]
    assert etcpipe.stdout == output.read_text()
    for line in etcpipe.stdout.splitlines():
        assert json.loads(line)["event_type"] == "verdict"


def _feed(pipe: Path, capture: bytes, stop: threading.Event) -> None:
    """Write a capture into a pipe and hold it open, as a tcpdump that sees no more."""
    with open(pipe, "wb") as writer:
        writer.write(capture)
        writer.flush()
        stop.wait(60)


@pytest.mark.root
@pytest.mark.parametrize("verb", [["attach", "lo"], ["detach", "lo"], ["detach", "--all"]])
def test_without_rights(verb):
    line = fails(*verb, status=4, wrapper=POWERLESS)
    assert "root" in line
    assert not Path("/run/etcpipe/lo.json").exists()


@pytest.mark.root
def test_doctor_without_rights_says_so():
    done = run("-j", "doctor", check=4, wrapper=POWERLESS)
    by_name = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert by_name["rights"]["status"] == "fail"
    assert "CAP_NET_ADMIN" in by_name["rights"]["text"]


@pytest.mark.root
def test_no_such_device():
    assert "nodev0" in fails("attach", "nodev0", status=1)


@pytest.mark.root
def test_no_such_namespace():
    for verb in (["attach", "lo"], ["show"], ["detach", "lo"], ["doctor", "lo"]):
        assert "etcpipe-none" in fails("-n", "etcpipe-none", *verb, status=2)


@pytest.mark.root
def test_nothing_attached():
    assert fails("detach", "lo", status=1) == "lo: etcpipe is not attached"
    assert fails("monitor", "lo", status=1) == "etcpipe is not attached to lo"


def test_no_source_file_prints_a_traceback():
    """Only command.py may, and only for ETCPIPE_DEBUG."""
    sources = [*(ROOT / "cli").glob("*.py"), *(ROOT / "etcpipe").rglob("*.py")]
    users = {path.name for path in sources if "traceback" in path.read_text()}
    assert users == {"command.py"}

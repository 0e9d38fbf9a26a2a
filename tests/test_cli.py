"""The command's manners: help, prefixes, errors, completion, and classify from end to end."""

import csv
import errno
import json
import os
import subprocess
import sys
from importlib.resources import files

import click
import jsonschema
import pytest
from command import ETCPIPE, LAB, ROOT, fails, run, run_inside

from etcpipe import errors
from etcpipe.cli import command, settings

SCHEMA = json.loads((files("etcpipe") / "schema" / "verdict.schema.json").read_text())
CAPTURE = LAB / "lab-1.pcap"


def verb_names() -> list[str]:
    return list(command.VERBS)


@pytest.mark.parametrize("verb", verb_names())
def test_every_verb_loads_and_has_help(verb, capfd):
    assert command.run([verb, "--help"]) == 0
    assert f"Usage: etcpipe {verb}" in capfd.readouterr().out


@pytest.mark.parametrize("args", [[], ["help"], ["-h"], ["--help"]])
def test_help_lists_the_verbs(args, capfd):
    assert command.run(args) == 0
    out = capfd.readouterr().out
    assert all(f"\n  {verb} " in out for verb in verb_names())


@pytest.mark.parametrize("args", [["help", "classify"], ["classify", "help"], ["cl", "-h"]])
def test_help_is_a_word_at_each_level(args, capfd):
    assert command.run(args) == 0
    assert "Usage: etcpipe classify" in capfd.readouterr().out


@pytest.mark.parametrize("args", [["lab"], ["lab", "help"], ["help", "lab"]])
def test_groups_have_the_same_manners(args, capfd):
    assert command.run(args) == 0
    assert "Usage: etcpipe lab" in capfd.readouterr().out
    assert command.run(["lab", "li"]) == 0


def test_each_verb_shows_how_it_is_called():
    root = click.Context(command.cli, info_name="etcpipe")
    verbs = [one for one in settings.verbs_of(root) if not isinstance(one[1], click.Group)]
    without = [words for words, verb in verbs if "\n    etcpipe " not in _page(verb)]
    assert len(verbs) > 30
    assert without == []


def _page(verb):
    return verb.get_help(click.Context(verb, info_name="etcpipe"))


def test_help_imports_no_arrays():
    script = "import sys; from etcpipe.cli.command import run; run([]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    modules = done.stdout.splitlines()[-1].split()
    assert "click" in modules
    assert not {"numpy", "onnxruntime", "pyroute2", "pyarrow", "lightgbm"} & set(modules)


def test_version(capfd):
    assert command.run(["-V"]) == 0
    assert capfd.readouterr().out == "etcpipe 0.1.0\n"


def test_ambiguous_prefix_names_the_candidates(capfd):
    assert command.run(["co"]) == 2
    assert "'co' may be config or completion" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bogus"], "No such command 'bogus' (see etcpipe --help)"),
        (["classify"], "Missing argument 'PCAP...' (see etcpipe classify --help)"),
        (["attach", "lo", "--mode", "fast"], "Invalid value for '--mode'"),
        (["attach", "lo", "--count", "0"], "Invalid value for '-c' / '--count'"),
        (["completion", "tcsh"], "Invalid value for"),
        (["detach"], "detach: name a device, or give --all"),
        (["show", "-n", "blue"], "-n goes before the verb (see etcpipe show --help)"),
        (["classify", "a.pcap", "-o", "flows.txt"], "flows.txt: the extension names the format"),
        (["attach", "lo", "-o", "flows"], "flows: the extension names the format"),
        (["attach", "lo", "--duration", "-5"], "duration -5: more than 0 seconds"),
        (["attach", "lo", "--duration", "nan"], "duration nan: more than 0 seconds"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(args, message, capfd):
    assert command.run(args) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"etcpipe: {message}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (errors.CaptureError("a.pcap: empty"), 1, "a.pcap: empty"),
        (errors.UsageError("two\nlines"), 2, "two lines"),
        (errors.PermissionDeniedError("not root"), 4, "not root"),
        (errors.UnsupportedError("too old"), 5, "too old"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (OSError(errno.ENOENT, "No such file", "x"), 1, "x: No such file"),
        (PermissionError(errno.EPERM, "Operation not permitted"), 4, "Operation not permitted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (SystemExit(143), 143, ""),
        (MemoryError(), 1, "out of memory"),
        (ModuleNotFoundError("no", name="lightgbm"), 1, "needs the Python package lightgbm"),
        (ZeroDivisionError("x"), 1, "bug: ZeroDivisionError: x (ETCPIPE_DEBUG=1 shows where)"),
    ],
)
def test_each_kind_of_error_has_its_line_and_status(error, status, message):
    got_status, got_message = command.explain(error)
    assert got_status == status
    assert got_message.startswith(message)
    assert bool(got_message) == bool(message)


def test_interrupted_import_is_an_interrupt():
    failed = ImportError("initialization failed")
    failed.__cause__ = KeyboardInterrupt()
    assert command.explain(failed) == (130, "interrupted")


def test_debug_shows_where_it_failed():
    done = run("classify", "/nonexistent.pcap", env={**os.environ, "ETCPIPE_DEBUG": "1"}, check=1)
    assert "Traceback (most recent call last):" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("etcpipe: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_for_the_shell(shell, capfd):
    assert command.run(["completion", shell]) == 0
    assert "_ETCPIPE_COMPLETE" in capfd.readouterr().out


def test_bash_takes_the_completion_script():
    script = run("completion", "bash", check=0).stdout
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_tab_key_offers_verbs():
    group, context = command.cli, click.Context(command.cli)
    assert [item.value for item in group.shell_complete(context, "at")] == ["attach"]


@pytest.mark.parametrize(
    "words, offered",
    [
        ("attach l", "plain,lo"),
        ("attach lo --model def", "plain,default"),
        ("eval traffic_moe.", "plain,traffic_moe.gpu"),
        ("demo --kind video_", "plain,video_hls"),
        ("classify --point best/", "file,best/"),
    ],
)
def test_tab_key_offers_what_there_is(words, offered, monkeypatch, capfd):
    line = f"etcpipe {words}"
    monkeypatch.setenv("_ETCPIPE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert command.run([]) == 0
    assert offered in capfd.readouterr().out.splitlines()


def test_classify_for_people():
    done = run("classify", CAPTURE, check=0)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["proto", "initiator", "responder", "packets"]
    flows, classes, packets = done.stdout.split("\n\n")
    assert len(flows.splitlines()) == 1 + 40 + 1
    assert flows.splitlines()[-1].endswith("more flows; --all shows them")
    assert classes.split()[:2] == ["class", "flows"]
    assert packets.startswith("packets by reason")


def test_classify_shows_all_flows_with_all():
    lines = run_inside("-j", "classify", CAPTURE, check=0).stdout.splitlines()
    table = run_inside("classify", "--all", CAPTURE, check=0).stdout.split("\n\n")[0]
    assert len(table.splitlines()) == 1 + len(lines)


def test_classify_lines_follow_the_schema_and_agree_with_the_counters():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    events = [
        json.loads(line) for line in run_inside("-j", "classify", CAPTURE, check=0).stdout.split()
    ]
    for event in events:
        validator.validate(event)
    ids = [event["flow_id"] for event in events]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    packets = sum(e["flow"]["pkts_toserver"] + e["flow"]["pkts_toclient"] for e in events)
    text = run("classify", CAPTURE, check=0).stdout
    assert f"{packets:,}" in next(line for line in text.splitlines() if line.startswith("tracked"))


def test_json_may_follow_the_verb():
    before = run_inside("-j", "classify", CAPTURE, check=0).stdout
    after = run_inside("classify", "-j", CAPTURE, check=0).stdout
    assert after.count("\n") == before.count("\n") > 0
    assert json.loads(after.splitlines()[0])["event_type"] == "verdict"


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
def test_classify_writes_the_same_labels_in_each_format(extension, tmp_path):
    path = tmp_path / f"flows.{extension}"
    done = run("-j", "classify", CAPTURE, "-o", path, check=0)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [line["etcpipe"]["label"] for line in lines]
    if extension == "jsonl":
        rows = [json.loads(line)["etcpipe"] for line in path.read_text().splitlines()]
    elif extension == "csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    assert [row["label"] for row in rows] == expected


def test_classify_reads_standard_input():
    with open(CAPTURE, "rb") as capture:
        piped = run("-j", "classify", "-", stdin=capture, check=0).stdout
    named = run_inside("-j", "classify", CAPTURE, check=0).stdout
    assert [json.loads(line)["community_id"] for line in piped.splitlines() if "TCP" in line] == [
        json.loads(line)["community_id"] for line in named.splitlines() if "TCP" in line
    ]


def test_classify_filters_as_tcpdump_does():
    lines = run_inside("-j", "classify", CAPTURE, "--filter", "udp", check=0).stdout.splitlines()
    assert {json.loads(line)["proto"] for line in lines} == {"UDP"}


def test_truncated_capture_is_used_as_far_as_it_goes(tmp_path):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(CAPTURE.read_bytes()[:-7])
    done = run("-j", "classify", cut, check=3)
    assert len(done.stdout.splitlines()) > 10
    assert done.stderr.startswith(f"etcpipe: warning: {cut}")
    assert done.stderr.count("\n") == 1


def test_reader_that_left_ends_it_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*ETCPIPE, "-j", "classify", str(CAPTURE)],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_closed_is_as_the_null_device(closed):
    done = run("classify", CAPTURE, preexec_fn=lambda: os.close(closed), check=0)
    assert ("cascade sure" in done.stdout) == (closed != 1)
    assert done.stderr == ""


def test_full_disk_on_standard_output_is_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*ETCPIPE, "-j", "classify", str(CAPTURE)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "etcpipe: No space left on device\n")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path):
    lab = ROOT / "tests/data/lab"
    code = (
        "import sys; sys.modules['optuna'] = None; from etcpipe.cli import command; "
        f"sys.exit(command.run(['tune', '{lab}', '-o', '{tmp_path}/tuned']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 5
    assert "etcpipe[tune]" in done.stderr


def test_doctor_finds_each_thing_once():
    done = run("-j", "doctor")
    assert done.returncode in (0, 4, 5)
    findings = json.loads(done.stdout)
    names = [finding["check"] for finding in findings]
    assert len(names) == len(set(names))
    by_name = {finding["check"]: finding for finding in findings}
    assert by_name["captures"]["status"] == by_name["engine"]["status"] == "ok"
    assert by_name["model"]["status"] == "ok"
    assert all(finding["status"] in ("ok", "warn", "fail") for finding in findings)


def test_doctor_knows_devices():
    checks = {f["check"] for f in json.loads(run("-j", "doctor", "lo").stdout)}
    assert {"driver", "mtu", "merging", "splitting", "hw-tc-offload", "xdp", "tc"} <= checks
    assert fails("doctor", "nodev0", status=1).startswith("no device nodev0 here")

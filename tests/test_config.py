"""Configuration files and variables: which one wins, and what a wrong one is called."""

import json

import click
import pytest
from command import LAB, fails, run, run_inside

from etcpipe.cli import command, settings
from etcpipe.config import files
from etcpipe.errors import ConfigError

CAPTURE = LAB / "lab-1.pcap"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty configuration folder that the command takes for its own."""
    (tmp_path / "conf.d").mkdir()
    monkeypatch.setenv("ETCPIPE_CONFIG", str(tmp_path))
    return tmp_path


def write(folder, text, name="etcpipe.toml"):
    (folder / name).write_text(text)


def shown(*args):
    """Return (value, origin) by key of `etcpipe config show`."""
    entries = json.loads(run_inside("-j", "config", "show", *args, check=0).stdout)
    return {f"{e['section']}.{e['name']}": (e["value"], e["origin"]) for e in entries}


def test_later_files_win(folder):
    write(folder, "[attach]\nfirst = 1\nwait = 2.5\n")
    write(folder, "[attach]\nfirst = 2\n", "conf.d/10-a.toml")
    write(folder, "[attach]\nfirst = 3\n", "conf.d/20-b.toml")
    assert shown() == {
        "attach.first": (3, f"{folder}/conf.d/20-b.toml"),
        "attach.wait": (2.5, f"{folder}/etcpipe.toml"),
    }


def test_a_device_wins_over_the_verb_and_the_environment_over_both(folder, monkeypatch):
    write(folder, '[device."eth0.7"]\nfirst = 5\nfilter = "tcp"\n')
    write(folder, "[attach]\nfirst = 6\nwait = 1\n", "conf.d/late.toml")
    monkeypatch.setenv("ETCPIPE_ATTACH_FILTER", "udp")
    entries = shown("eth0.7")
    assert entries["attach.first"] == (5, f"{folder}/etcpipe.toml")
    assert entries["attach.filter"] == ("udp", "ETCPIPE_ATTACH_FILTER")
    assert entries["attach.wait"] == (1, f"{folder}/conf.d/late.toml")
    assert entries["attach.mode"] == ("auto", "default")
    assert shown("eth1")["attach.first"] == (6, f"{folder}/conf.d/late.toml")


def test_files_variable_and_flag_reach_the_verb_in_this_order(folder, monkeypatch):
    def protocols(*args):
        lines = run("-j", "classify", CAPTURE, *args, check=0).stdout.splitlines()
        return {json.loads(line)["proto"] for line in lines}

    assert protocols() > {"TCP", "UDP"}
    write(folder, '[classify]\nfilter = "udp"\n')
    assert protocols() == {"UDP"}
    monkeypatch.setenv("ETCPIPE_CLASSIFY_FILTER", "tcp")
    assert protocols() == {"TCP"}
    assert protocols("--filter", "udp") == {"UDP"}


def test_a_device_is_known_before_its_options_are_read(folder):
    write(folder, '[device.nodev0]\nmode = "sideways"\n')
    message = fails("attach", "--first", "3", "nodev0", status=2)
    assert message.startswith(f"{folder}/etcpipe.toml: device.nodev0.mode: 'sideways' is no")
    assert "no device nodev1" in fails("attach", "nodev1", status=1)


def test_shown_settings_are_a_file_that_sets_the_same(folder):
    text = '[classify]\nfilter = "udp or \\"x\\""\nall = true\n\n[device."eth0.7"]\nfirst = 5\n'
    write(folder, text)
    assert run_inside("config", "show", check=0).stdout == text


def test_origin_stands_behind_each_setting(folder):
    write(folder, "[attach]\nfirst = 9\n")
    out = run_inside("config", "show", "--origin", check=0).stdout
    assert out.splitlines()[1].split() == ["first", "=", "9", "#", f"{folder}/etcpipe.toml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[attach]\nfrist = 3", "attach.frist: no such option; did you mean first?"),
        ("[attach]\nfirst = 'ten'", 'attach.first: wants a whole number, not "ten"'),
        ("[attach]\nfirst = true", "attach.first: wants a whole number, not true"),
        ("[attach]\nkeep = 1", "attach.keep: wants true or false, not 1"),
        ("[attach]\nfilter = 5", "attach.filter: wants text, not 5"),
        ("[attach]\nqueues = 100", "attach.queues: 100 is not in the range 1<=x<=64"),
        ("[attach]\nsample = '2/3'", "attach.sample: "),
        ("[atach]\nfirst = 3", "there is no section [atach]; did you mean attach?"),
        ("[model.bnech]\nbatch = [3]", "there is no section [model.bnech]; did you mean bench?"),
        ("[model]\nbatch = 3", "model.batch: no such option"),
        ("[device.eth0.attach]\nfirst = 3", "there is no section [device.eth0.attach]"),
        ("first = 3", "first stands in no section; write [attach] or another verb above it"),
        ("[attach\nfirst = 3", "Expected ']' at the end of a table declaration (at line 1,"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place(text, message, folder):
    write(folder, text)
    assert fails("config", "check", inside=True, status=2).startswith(
        f"{folder}/etcpipe.toml: {message}"
    )


def test_all_faults_are_told_at_once(folder):
    write(folder, "[attach]\nfrist = 3\n[clasify]\nfirst = 3\n")
    done = run_inside("config", "check", check=2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert len(json.loads(run_inside("-j", "config", "check", check=2).stdout)) == 2


def test_a_variable_that_nobody_reads_is_told(folder, monkeypatch):
    monkeypatch.setenv("ETCPIPE_ATTACH_FRIST", "3")
    message = fails("config", "check", inside=True, status=2)
    assert message == (
        "environment: no option is set by ETCPIPE_ATTACH_FRIST; did you mean ETCPIPE_ATTACH_FIRST?"
    )


def test_a_right_folder_is_counted(folder):
    write(folder, "[attach]\nfirst = 3\nsample = '1/8'\n[model.bench]\nbatch = [1, 64]\n")
    write(folder, "[model.bench]\nbatch = 7\n", "conf.d/one.toml")
    assert run_inside("config", "check", check=0).stdout == f"{folder}: 2 files, 4 settings, ok\n"


def test_a_wrong_file_stops_neither_help_nor_detach_nor_show(folder):
    write(folder, "[attach")
    assert "Usage: etcpipe attach" in run("attach", "--help", check=0).stdout
    assert "is no" not in run("show").stderr
    assert fails("detach", status=2) == "detach: name a device, or give --all"


def test_a_named_folder_must_be_there(tmp_path):
    missing = tmp_path / "nowhere"
    assert fails("--config", missing, "config", "check", inside=True, status=2) == (
        f"{missing}: no such folder of configuration files"
    )


def test_the_usual_folder_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path / "none")
    assert files.read(tmp_path / "none") == []


def test_a_file_that_is_not_text_is_told(folder):
    (folder / "etcpipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"etcpipe.toml: 'utf-8' codec"):
        files.read(folder)


def test_every_option_has_a_variable_of_its_own():
    root = click.Context(command.cli, info_name="etcpipe")
    names = [name for name, _, _ in settings.variables(root)]
    assert len(names) == len(set(names)) > 100
    assert {"ETCPIPE_ATTACH_DEVICE", "ETCPIPE_MODEL_BENCH_BATCH", "ETCPIPE_NETNS"} <= set(names)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first", "abc", "{origin}: 'abc' is not a valid integer"),
        ("wait", "-1", "{origin}: -1.0 is not in the range 0<x<=86400"),
        ("sample", "2/3", "{origin}: sample '2/3': write 1/K, or 1/K:SEED"),
        (
            "filter",
            "foo",
            "filter 'foo': can't parse filter expression: syntax error (set by {origin}",
        ),
        ("model", "no.onnx", "no model no.onnx: give a .onnx file or one that ships"),
    ],
)
def test_a_wrong_value_is_laid_to_the_variable_that_set_it(name, value, message, monkeypatch):
    origin = f"ETCPIPE_CLASSIFY_{name.upper()}"
    monkeypatch.setenv(origin, value)
    said = fails("classify", CAPTURE, inside=True, status=1 if name == "model" else 2)
    assert said.startswith(message.format(origin=origin))
    assert origin in said


def test_a_variable_of_all_verbs_is_named(monkeypatch):
    monkeypatch.setenv("ETCPIPE_JSON", "abc")
    said = fails("classify", CAPTURE, inside=True, status=2)
    assert said == "ETCPIPE_JSON: 'abc' is not a valid boolean"


def test_what_a_verb_refuses_is_laid_to_the_file_that_set_it(folder):
    write(folder, '[classify]\nfilter = "foo"\n')
    place = f"{folder}/etcpipe.toml: classify.filter"
    assert fails("classify", CAPTURE, inside=True, status=2).endswith(f"(set by {place})")
    said = fails("classify", CAPTURE, "--filter", "foo", inside=True, status=2)
    assert said == "filter 'foo': can't parse filter expression: syntax error"

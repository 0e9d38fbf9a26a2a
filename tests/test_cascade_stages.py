"""The cascade's file: what is read, written and refused."""

import numpy as np
import pytest

from etcpipe.cascade import stages
from etcpipe.cascade.stages import Cascade, Rule, Stage
from etcpipe.errors import OutputError, UsageError

TEXT = """
wait_s = 0.5

[[stage]]
packets = 1
model = "first.onnx"
temperature = 1.5
rule = {kind = "per_class", probability = 0.9, classes = {"a b" = 0.5}}
deadline_ms = 0.5
batch = 32
queue = 64

[[stage]]
packets = 3
model = "third.onnx"
rule = {kind = "target", share = 0.25}

[[stage]]
packets = 3
model = "slow.onnx"
"""


def test_a_file_says_what_it_means():
    cascade = stages.from_toml(TEXT)
    first, third, slow = cascade.stages
    assert (cascade.wait_s, cascade.early, cascade.depths) == (0.5, True, (1, 3))
    assert cascade.latency_ms == 5
    assert first == Stage(
        1, "first.onnx", 1.5, Rule("per_class", 0.9, {"a b": 0.5}), 0.5, batch=32, queue=64
    )
    assert third.rule == Rule("target", share=0.25)
    assert (slow.packets, slow.rule, slow.temperature, slow.batch) == (3, None, None, 256)


def test_what_is_written_is_read_again(tmp_path):
    cascade = Cascade(
        (
            Stage(2, 'a"\\\x7fé.onnx', 2.0, Rule("per_class", 0.25, {"ü.x": 1.01})),
            Stage(2, "b.onnx", rule=Rule("target", 0.5, share=0.125)),
            Stage(10, "c.onnx", deadline_ms=0.0),
        ),
        wait_s=2.5,
        early=False,
        latency_ms=12.5,
    )
    cascade.save(tmp_path / "cascade.toml")
    assert stages.load(tmp_path / "cascade.toml") == cascade


def test_thresholds_go_by_class():
    rule = Rule("per_class", 0.75, {"web": 0.5})
    assert rule.thresholds(("ssh", "web")).tolist() == [0.75, 0.5]
    assert rule.thresholds(("web",)).dtype == np.float32
    with pytest.raises(UsageError, match=r"no class 'web' \(possible: ssh\)"):
        rule.thresholds(("ssh",))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wait_s", "wait_ms", r"x: unknown key 'wait_ms' \(did you mean wait_s\?\)"),
        ("wait_s = 0.5", "wait_s = 0", "wait_s is 0, must be a number from 0.001"),
        ("packets = 1", "packet = 1", r"x: stage 0: unknown key 'packet' \(did you mean packets"),
        ("packets = 1", "packets = 65", "x: stage 0: packets is 65, must be a whole number from 1"),
        ("packets = 1", "packets = 1.0", "packets is 1.0, must be a whole number"),
        ("packets = 1", "packets = 5", "x: stage 1: waits for fewer packets than the one before"),
        ("packets = 1\n", "", "x: stage 0: packets is missing"),
        ('"first.onnx"', "7", "model is 7, must be a file"),
        ("1.5", "0", "temperature is 0, must be a number"),
        ("1.5", "nan", "temperature is nan, must be a number"),
        ("batch = 32", "batch = 65", "batch is 65, must be a whole number from 1 to 64"),
        ("per_class", "perclass", r"rule kind 'perclass' \(did you mean per_class\?\)"),
        ("share = 0.25", "shar = 0.25", r"rule target: unknown key 'shar' \(did you mean share"),
        ("share = 0.25", "share = 2", "rule: share is 2, must be a number from 0 to 1"),
        ("share = 0.25", "classes = {}", "rule target: unknown key 'classes'"),
        ('{"a b" = 0.5}', "3", "rule: classes must be as"),
        ('{"a b" = 0.5}', '{"a b" = true}', "rule: a b is True, must be a number"),
        ('rule = {kind = "target", share = 0.25}', "", "x: stage 1: the rule is missing"),
        ('rule = {kind = "target", share = 0.25}', "rule = 0.9", "rule must be as {kind"),
        ('"slow.onnx"', '"slow.onnx"\nrule = {kind = "target"}', "stage 2: the last stage answers"),
        ("[[stage]]", "stage = 1 #", "x: "),
        (TEXT, "", r"x: no stages: begin each with a line \[\[stage\]\]"),
        (TEXT, "stage = [1]", r"x: stage 0: begin it with a line \[\[stage\]\]"),
        (TEXT, "early = 1\n" + TEXT, "early is 1, must be true or false"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old, new, message):
    assert old in TEXT
    with pytest.raises(UsageError, match=message) as error:
        stages.from_toml(TEXT.replace(old, new), "x")
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        stages.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        stages.load(tmp_path / "bytes.toml")
    with pytest.raises(OutputError, match="cannot write"):
        stages.from_toml(TEXT).save(tmp_path / "no" / "c.toml")


def test_too_many_stages_are_refused():
    with pytest.raises(UsageError, match="number of stages is 17, must be a whole number from 1"):
        Cascade((Stage(1, "a", rule=Rule()),) * 16 + (Stage(1, "a"),))

"""Rules act on families, and on what their classes are probable together."""

from pathlib import Path

import numpy as np
import pytest
from command import run
from test_families import MATRIX, NAMES, OF_THREE
from test_model import flow_batch, model_bytes, records

from etcpipe import classify
from etcpipe.errors import UsageError
from etcpipe.model import load
from etcpipe.policy.live import Acts
from etcpipe.policy.rules import parse

PAGE, BULK, SSH, WEB, UNKNOWN = 0, 1, 2, 3, -1


def rules(*pairs: tuple[str, float]) -> str:
    """Rules of (classes as TOML has them, min_probability), each with a DSCP of its own."""
    return "\n".join(
        f"[[rule]]\nclass = {named}\nmin_probability = {least}\naction = {{dscp = {i}}}"
        for i, (named, least) in enumerate(pairs)
    )


def decided(text: str, *verdicts: tuple[int, float], shares=None) -> list[int]:
    """What a policy does with (label, probability) of each verdict."""
    label, probability = (np.array(column) for column in zip(*verdicts, strict=True))
    shares = None if shares is None else np.array(shares, np.float32)
    return parse(text).decider(NAMES)(label, probability.astype(np.float32), shares).tolist()


ALL = [(PAGE, 0.9), (BULK, 0.9), (SSH, 0.9), (WEB, 0.9), (UNKNOWN, 0.5)]


@pytest.mark.parametrize(
    ("named", "actions"),
    [
        ('"web"', [1, 1, 0, 1, 0]),
        ('"we*"', [1, 1, 0, 1, 0]),
        ('["bulk", "page"]', [1, 1, 0, 1, 0]),
        ('"bulk"', [0, 1, 0, 0, 0]),
        ('["bulk", "ssh"]', [0, 1, 1, 0, 0]),
        ('"*"', [1, 1, 1, 1, 0]),
        ('["unknown", "ssh"]', [0, 0, 1, 0, 1]),
    ],
)
def test_a_family_is_all_of_its_classes(named, actions):
    assert decided(rules((named, 0)), *ALL) == actions


SHARES = [
    [0.5, 0.45, 0.05],  # a page or a download
    [0.1, 0.55, 0.35],  # perhaps a download, perhaps SSH
    [0.02, 0.08, 0.9],
]
VERDICTS = [(WEB, 0.95), (UNKNOWN, 0.55), (SSH, 0.9)]


@pytest.mark.parametrize(
    ("named", "least", "actions"),
    [
        ('"web"', 0.6, [1, 1, 0]),
        ('"web"', 0.9, [1, 0, 0]),
        ('["bulk", "ssh"]', 0.85, [0, 1, 1]),
        ('"bulk"', 0.5, [0, 1, 0]),
        ('"bulk"', 0.4, [1, 1, 0]),
        ('"bulk"', 0, [0, 0, 0]),
    ],
)
def test_a_minimum_is_of_all_classes_together_whatever_the_label(named, least, actions):
    assert decided(rules((named, least)), *VERDICTS, shares=SHARES) == actions


def test_where_only_the_label_is_known_its_probability_counts():
    unknown = np.zeros((3, 3))
    assert decided(rules(('"web"', 0.9)), *VERDICTS, shares=unknown) == [1, 0, 0]
    assert decided(rules(('"web"', 0.96)), *VERDICTS, shares=unknown) == [0, 0, 0]


def test_the_first_rule_that_is_probable_enough_decides():
    text = rules(('"bulk"', 0.5), ('"web"', 0.6), ('"unknown"', 0))
    assert decided(text, *VERDICTS, shares=SHARES) == [2, 1, 0]


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(model_bytes(OF_THREE, MATRIX))
    return load(file)


def test_an_attach_acts_on_what_its_model_told(model):
    acts = Acts(parse(rules(('["bulk", "ssh"]', 0.6), ('"web"', 0))), model)
    # packets there speak for page and bulk, those back for SSH; one each: 0.19, 0.31, 0.51
    flows = flow_batch([[0, 0, 0], [1, 1, 1], [0, 1], []])
    verdicts = model.verdicts(flows, records(flows))
    assert [verdicts.name(i) for i in range(4)] == ["web", "ssh", "unknown", "unknown"]
    assert acts.actions(verdicts).tolist() == [2, 1, 1, 0]


def test_models_tell_all_only_while_a_rule_asks(model):
    acts = Acts(parse(rules(('"web"', 0))), model)
    assert model.shares is None
    acts.change(parse(rules(('"web"', 0.5))), model)
    kept = model.shares
    assert kept is not None
    acts.change(parse(rules(('"ssh"', 0.5))), model)
    assert model.shares is kept  # flows that were judged before are known to the new policy
    acts.change(None, model)
    assert model.shares is None


def test_what_a_replaced_model_still_says_is_read_by_its_own_families(model, tmp_path):
    families = {"shell": ("ssh",), "web": ("page", "bulk")}
    file = tmp_path / "other.onnx"
    file.write_bytes(
        model_bytes(OF_THREE.__class__(**{**vars(OF_THREE), "families": families}), MATRIX)
    )
    acts = Acts(parse(rules(('"web"', 0))), model)
    flows = flow_batch([[0, 0, 0], [1, 1, 1]])
    before = model.verdicts(flows, records(flows))
    other = load(file)
    acts.change(acts.policy, other)
    after = other.verdicts(flows, records(flows))
    assert (before.label[0], after.label[0]) == (WEB, WEB + 1)
    assert acts.actions(before).tolist() == acts.actions(after).tolist() == [1, 0]


def test_another_model_must_have_the_families_that_rules_name(model, tmp_path):
    file = tmp_path / "plain.onnx"
    file.write_bytes(model_bytes(OF_THREE.__class__(**{**vars(OF_THREE), "families": {}}), MATRIX))
    acts = Acts(parse(rules(('"web"', 0)), "p.toml"), model)
    with pytest.raises(UsageError, match=r"p\.toml:2: the model has no class 'web'"):
        acts.check(load(file))


def test_check_says_by_what_rules_hold(tmp_path):
    path = tmp_path / "policy.toml"
    text = rules(('["https_bulk", "video_hls"]', 0.7), ('"ssh"', 0), ('"imaps"', 0.9))
    path.write_text(text)
    done = run("policy", "check", path, check=0)
    assert done.stdout.splitlines()[2].split()[:4] == ["2", "ssh_shell,", "ssh_transfer", ">="]
    assert done.stdout.splitlines()[-3:] == [
        "rule 1 applies if its classes together have probability 0.7 or more, whatever the label",
        "rule 2 applies by the label, also if it is only the family ssh",
        "rule 3 applies if its class has probability 0.9 or more, whatever the label",
    ]
    assert not done.stderr


def test_check_warns_of_a_rule_that_one_before_covers_and_of_no_other(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        rules(
            ('"https_bulk"', 0.8),
            ('"https_page"', 0.8),
            ('["https_bulk", "https_page"]', 0.8),  # together, where neither is
            ('"https_page"', 0.9),
        )
    )
    done = run("policy", "check", path, check=0)
    assert done.stderr == (
        f"etcpipe: warning: {path}:14: rule 4 never applies: earlier rules take its classes\n"
    )


def test_all_stages_of_a_cascade_tell_what_rules_ask_for():
    capture = next((Path(__file__).parent / "data/lab").glob("*.pcap"))
    flows = classify(capture)
    acts = Acts(parse(rules(('"https"', 0.9))), flows.model)
    shares = flows.model.stage_models[0].shares
    stages = set()
    for verdicts in flows:
        judged = verdicts.packets_used > 0
        told = shares.of(verdicts.flows.flow_id)
        assert told.sum(axis=1) == pytest.approx(judged.astype(float), abs=1e-5)
        of_https = [flows.model.classes.index(one) for one in flows.model.labels.families["https"]]
        expected = told[:, of_https].sum(axis=1) >= 0.9
        assert acts.actions(verdicts).tolist() == expected.astype(int).tolist()
        stages |= set(verdicts.stage[judged].tolist())
    assert stages == {0, 1}

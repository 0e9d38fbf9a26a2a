"""A family is said where no class can be, by the probability of its classes together."""

from dataclasses import replace

import numpy as np
import pytest
from test_model import PLAIN, flow_batch, model_bytes, records

from etcpipe import families
from etcpipe.demo import ClassScore
from etcpipe.errors import UsageError
from etcpipe.families import LabelNames
from etcpipe.gpu.inference import open_runner
from etcpipe.lab.kinds import KINDS
from etcpipe.model import load
from etcpipe.model_file import DESCRIPTION_KEY, parse_description
from etcpipe.outputs import eve
from etcpipe.shares import Shares
from etcpipe.training import family_choice
from etcpipe.training.family_choice import Coarse
from etcpipe.verdict import UNKNOWN

WEB = {"web": ("page", "bulk")}
NAMES = LabelNames(("page", "bulk", "ssh"), WEB)
# scores are packets there and back: page, bulk and ssh by one of them, or by their sum
OF_THREE = replace(
    PLAIN,
    classes=("page", "bulk", "ssh"),
    families={"web": ("page", "bulk")},
    threshold=0.7,
    family_threshold=0.9,
    temperature=1.0,
)
MATRIX = np.array([[1, 1, 0], [0, 0.5, 2]], np.float32)


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(model_bytes(OF_THREE, MATRIX))
    return load(file)


def softmax(*scores):
    powers = np.exp(np.array(scores))
    return powers / powers.sum()


def test_names_are_those_of_classes_and_then_of_families():
    assert NAMES == ("page", "bulk", "ssh", "web")
    assert NAMES.classes == ("page", "bulk", "ssh")
    assert NAMES.family_of == ("web", "web", None, "web")
    assert families.names_of(("a", "b")).family_of == (None, None)


def test_a_verdict_names_the_family_of_classes_that_are_alike(model):
    # three packets there: page and bulk have score 3, ssh 0
    flows = flow_batch([[0, 0, 0], [1, 1, 1], [0, 1], []])
    verdicts = model.verdicts(flows, records(flows))
    assert [verdicts.name(i) for i in range(4)] == ["web", "ssh", UNKNOWN, UNKNOWN]
    page, bulk, _ = softmax(3, 3, 0)
    assert verdicts.probability[0] == pytest.approx(page + bulk, abs=1e-6)
    assert verdicts.runner_up.tolist()[:2] == [0, 1]  # the best class, and the second one
    lines = [one["etcpipe"] for one in eve.events(verdicts)]
    assert [one.get("family") for one in lines] == ["web", None, None, None]
    assert [one["label"] for one in lines] == ["web", "ssh", "unknown", "unknown"]


def test_a_sure_verdict_names_its_class_and_tells_its_family(model):
    model.threshold = 0.4
    flows = flow_batch([[0, 0, 0]])
    verdicts = model.verdicts(flows, records(flows))
    line = eve.events(verdicts)[0]["etcpipe"]
    assert (line["label"], line["family"], line["runner_up"]) == ("page", "web", "bulk")


def test_a_stage_that_others_follow_names_no_family(model):
    model.answer_all()
    flows = flow_batch([[0, 0, 0], [0, 1]])
    assert model.answers(flows).label.tolist() == [0, 2]


def test_all_probabilities_are_left_where_somebody_asks_for_them(model):
    model.shares = Shares(3)
    flows = flow_batch([[0, 0, 0], []])
    model.answers(flows)
    shares = model.shares.of(np.array([1, 2, 3], np.uint64))
    np.testing.assert_allclose(shares, [softmax(3, 3, 0), [0, 0, 0], [0, 0, 0]], rtol=1e-5)


def test_shares_of_a_flow_are_lost_to_one_a_table_later():
    shares = Shares(2, slots=4)
    shares.add(np.array([1, 2], np.uint64), np.array([[0.1, 0.9], [0.2, 0.8]]))
    shares.add(np.array([5], np.uint64), np.array([[0.3, 0.7]]))
    found = shares.of(np.array([1, 2, 5, 6], np.uint64))
    np.testing.assert_allclose(found, [[0, 0], [0.2, 0.8], [0.3, 0.7], [0, 0]], rtol=1e-6)


def test_a_file_says_its_families():
    read = parse_description(OF_THREE.to_json())
    assert read.families == WEB and read.family_threshold == 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ssh": ("page", "bulk")}, "family 'ssh' is called as a class"),
        ({"web": ("page", "file")}, "family 'web' has a class 'file' that is not there"),
        ({"a": ("page", "bulk"), "b": ("bulk", "ssh")}, "class 'bulk' is in two families"),
        ({"unknown": ("page", "bulk")}, "family 'unknown' is called as a class"),
    ],
)
def test_families_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        families.check(wrong, OF_THREE.classes)


def test_the_best_family_by_hand():
    place = families.places(("a1", "a2", "b1", "b2", "c"), {"a": ("a1", "a2"), "b": ("b1", "b2")})
    assert place.tolist() == [0, 0, 1, 1, -1]
    rows = np.array([[0.3, 0.25, 0.2, 0.15, 0.1], [0, 0.1, 0.2, 0.2, 0.5]], np.float32)
    family, together = families.best(rows, place)
    assert family.tolist() == [0, 1]
    np.testing.assert_allclose(together, [0.55, 0.4], rtol=1e-6)


def test_labels_tell_their_families():
    kinds = ("https_bulk", "https_page", "imaps", "ssh_shell", "unknown")
    assert family_choice.of_labels(kinds) == {"https": ("https_bulk", "https_page")}
    sites = ("QUIC.YouTube", "TLS.Amazon", "TLS.YouTube", "DNS")
    assert family_choice.of_labels(sites) == {"TLS": ("TLS.Amazon", "TLS.YouTube")}
    assert family_choice.of_labels(("ssh", "ssh_shell", "ssh_transfer")) == {}


def test_families_may_be_given():
    given = family_choice.parsed(("web=page,bulk", "all=ssh,scp"))
    assert given == {"web": ("page", "bulk"), "all": ("ssh", "scp")}
    assert family_choice.chosen(given, ("page", "bulk", "ssh", "scp")) == given
    assert family_choice.parsed(()) is None
    assert family_choice.chosen(None, ("ssh_shell", "ssh_transfer")) == {
        "ssh": ("ssh_shell", "ssh_transfer")
    }


@pytest.mark.parametrize("text", ["web", "=page,bulk", "web=", "web=page,,bulk"])
def test_families_that_are_written_otherwise_are_refused(text):
    with pytest.raises(UsageError, match="must be written as https=page,download"):
        family_choice.parsed((text,))


def test_given_families_are_of_the_classes():
    with pytest.raises(UsageError, match=r"class 'bulk' that is not there \(the classes are a, b"):
        family_choice.chosen({"web": ("a", "bulk")}, ("a", "b"))


def test_families_of_the_lab_are_of_its_kinds():
    for name, kinds in family_choice.OF_LAB.items():
        assert set(kinds) <= set(KINDS) and name not in KINDS


def test_what_could_be_said_of_refused_flows():
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.5, 0.45, 0.05], [0.5, 0.45, 0.05], [0.4, 0.1, 0.5]], np.float32
    )
    found = family_choice.coarse(
        probabilities, np.array([0, 1, 2, -1]), ("page", "bulk", "ssh"), 0.7, WEB
    )
    assert found.refused.tolist() == [False, True, True, True]
    np.testing.assert_allclose(found.together, [0.95, 0.95, 0.5], rtol=1e-6)
    assert found.right.tolist() == [True, False, False]


def coarse(together, right) -> Coarse:
    refused = np.ones(len(together), bool)
    return Coarse(refused, np.array(together, np.float32), np.array(right, bool))


def test_the_threshold_refuses_strangers_and_keeps_what_is_right():
    known = coarse(np.linspace(0.8, 1, 101), [True] * 101)
    strange = coarse([0.801, 0.803, 0.2, 0.805], [False, False, False, True])
    threshold = family_choice.choose_threshold(known, strange, 0.5)
    # above both strangers that are wrong, and no higher than a twentieth of the right ones
    assert 0.803 < threshold <= 0.81
    report = family_choice.on_families(known, strange, threshold)
    assert report["right"] == 1.0 and report["strange_wrong"] == 0
    assert report["told"] == pytest.approx(np.mean(known.together >= threshold), abs=1e-4)


def test_a_family_needs_no_less_than_a_class():
    known, nobody = coarse([0.75, 0.95], [True, True]), coarse([], [])
    assert family_choice.choose_threshold(known, nobody, 0.8) == 0.8
    assert family_choice.choose_threshold(nobody, nobody, 0.8) == 1.0


def test_a_training_gives_families_that_were_held_out():
    pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
    from labelled import made_up

    from etcpipe.dataset import Input
    from etcpipe.training import train

    dataset = replace(made_up(), classes=("https_bulk", "https_page", "ssh_shell"))
    with pytest.raises(UsageError, match="'video' that is not there"):
        train.train(dataset, train.Settings(Input(), families={"web": ("https_page", "video")}))
    result = train.train(dataset, train.Settings(Input(), folds=3))
    found = result.report["families"]
    assert found["threshold"] >= result.report["unknown"]["threshold"]
    about = parse_description(open_runner(result.model).metadata[DESCRIPTION_KEY])
    assert about.families == {"https": ("https_bulk", "https_page")}
    assert about.family_threshold == pytest.approx(found["threshold"], abs=1e-4)


def test_the_demo_counts_a_family_for_itself():
    score = ClassScore()
    for label, members in (("page", ()), ("web", WEB["web"]), ("unknown", ()), ("ssh", ())):
        score.add("page", label, members, 10**6)
    assert (score.right, score.family, score.unknown, score.wrong) == (1, 1, 1, 1)
    score.add("ssh", "web", WEB["web"], 10**6)
    assert (score.family, score.wrong, score.flows) == (1, 2, 5)

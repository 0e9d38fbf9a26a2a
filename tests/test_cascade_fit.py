"""A cascade's stages and thresholds come from flows held out, and are worth what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
from labelled import EVERY, made_up, write_recordings

from etcpipe import dataset as datasets
from etcpipe.cascade import by_class, calibrate, choose, curves, stages
from etcpipe.cascade.choose import Candidate, Flows
from etcpipe.cascade.stages import Rule
from etcpipe.cascade.walk import Step, figures, oracle_steps, random_steps, walk
from etcpipe.dataset import Input
from etcpipe.errors import UsageError

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.cascade import candidates, fit, pick, report
from etcpipe.cascade.rows import DepthRows, read_at_depths
from etcpipe.training import trees


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Enough for what is learnt here, and fast."""
    monkeypatch.setattr(trees, "TREES_MAX", 30)


def test_area_of_error_against_uncertainty_by_hand():
    uncertainty = np.array([0.1, 0.2, 0.3, 0.3])
    wrong = np.array([False, True, False, True])
    found = calibrate.separation(uncertainty, wrong, np.arange(4))
    # pairs (wrong, right): .2>.1, .2<.3, .3>.1, .3=.3 -> 1 + 0 + 1 + 1/2 of 4
    assert found.area == pytest.approx(2.5 / 4)


def test_uncertainty_that_tells_nothing_is_weak():
    rng = np.random.default_rng(0)
    wrong = rng.random(400) < 0.3
    told = calibrate.separation(wrong + rng.normal(0, 0.5, 400), wrong, np.arange(400) % 40)
    blind = calibrate.separation(rng.random(400), wrong, np.arange(400) % 40)
    assert told.low < told.area < told.high and not told.is_weak
    assert blind.is_weak
    assert calibrate.separation(rng.random(4), np.zeros(4, bool), np.arange(4)).is_weak


def test_measures_of_uncertainty_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    assert calibrate.least_confidence(probabilities) == pytest.approx([0.3, 2 / 3])
    assert calibrate.margin(probabilities) == pytest.approx([0.5, 1.0])
    assert calibrate.entropy(probabilities) == pytest.approx([0.7298, 1.0], abs=1e-4)


def test_a_stage_is_calibrated_on_the_flows_that_reach_it():
    easy, hard = np.tile([9.0, 0.0], (50, 1)), np.tile([2.0, 0.0], (50, 1))
    scores = np.concatenate([easy, hard])
    label = np.r_[np.zeros(50, int), np.arange(50) % 2]
    reached = np.arange(100) >= 50
    assert calibrate.fit_temperature(scores, label, reached) == pytest.approx(10, abs=0.1)
    assert calibrate.fit_temperature(scores, label, ~reached) == pytest.approx(0.2, abs=0.01)
    with pytest.raises(UsageError, match="no flow reaches"):
        calibrate.fit_temperature(scores, label, np.zeros(100, bool))


def test_curves_by_hand():
    label = np.array([0, 1, 0, 1])
    fast = np.array([0, 0, 0, 1])  # the second is wrong
    slow = np.array([1, 1, 0, 1])  # the first is wrong
    unsure_of_the_right_one = np.array([0.1, 0.9, 0.2, 0.3])
    shares = (0.0, 0.25, 1.0)
    found = curves.escalation(label, fast, slow, unsure_of_the_right_one, 2, shares, draws=50)
    f1_alone = (4 / 5 + 2 / 3) / 2
    assert found.ours == pytest.approx((f1_alone, 1.0, f1_alone))
    assert found.oracle == pytest.approx((f1_alone, 1.0, f1_alone))
    assert found.ours[1] > found.chance[1] > f1_alone - 0.2
    assert found.gain() > 0


def steps_of(said, sure, ready=(0.0, 1.0), us=(10.0, 100.0)):
    n = len(said[0])
    return [
        Step(np.array(one), np.array(is_sure, bool), np.full(n, at), cost)
        for one, is_sure, at, cost in zip(said, sure, ready, us, strict=True)
    ]


def test_a_walk_by_hand():
    steps = steps_of([[0, 0, 1], [1, 1, 1]], [[1, 0, 0], [0, 0, 0]])
    found = walk(steps)
    assert found.stage.tolist() == [0, 1, 1]
    assert found.said.tolist() == [0, 1, 1]
    assert found.us.tolist() == [10, 110, 110]
    assert found.latency_s == pytest.approx([10e-6, 1 + 110e-6, 1 + 110e-6])
    worth = figures(found, np.array([0, 1, 0]), 2, 2)
    assert worth.accuracy == pytest.approx(2 / 3)
    assert worth.early == pytest.approx(1 / 3)
    assert worth.stages == pytest.approx((1 / 3, 2 / 3)) and worth.slow == worth.stages[-1]
    assert worth.passed_on == pytest.approx((2 / 3,))
    thirds = replace(worth, stages=(0.5, 0.25, 0.25))
    assert thirds.passed_on == pytest.approx((0.5, 0.5))


def test_an_oracle_goes_on_only_where_that_helps():
    label = np.array([0, 1, 0, 1])
    steps = steps_of([[0, 0, 0, 0], [1, 1, 0, 0]], [[0, 1, 0, 1], [0] * 4])
    found = walk(oracle_steps(steps, label))
    assert found.stage.tolist() == [0, 1, 0, 0]  # the last one is never right: answered at once
    assert found.said.tolist() == [0, 1, 0, 0]


def test_random_escalation_passes_on_as_many():
    n = 4000
    sure = np.arange(n) % 4 == 0
    steps = steps_of([np.zeros(n, int), np.zeros(n, int)], [sure, sure])
    found = walk(random_steps(steps, seed=1))
    assert (found.stage == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (found.stage[sure] == 0).mean() == pytest.approx(0.25, abs=0.05)  # not the same flows


@pytest.mark.parametrize("share, threshold", [(0.0, 0.1), (0.5, 0.3), (1.0, 2.0)])
def test_a_threshold_passes_on_its_share(share, threshold):
    confidence = np.array([0.4, 0.1, 0.3, 0.2])
    assert choose.threshold_of(confidence, share) == threshold
    assert (confidence < threshold).mean() == share


def test_class_thresholds_pass_on_where_it_helps():
    said = np.repeat([0, 1], 100)
    confidence = np.tile(np.linspace(0, 1, 100), 2)
    helps_class_1 = np.where((said == 1) & (confidence < 0.5), 1.0, 0.0)
    found = by_class.class_thresholds(said, confidence, helps_class_1, classes=2)
    assert found[0] == 0.0  # nobody of class 0 goes on
    assert found[1] == pytest.approx(0.5, abs=0.02)


def test_a_class_with_few_flows_follows_the_others():
    said = np.repeat([0, 1], [200, 2])
    confidence = np.concatenate([np.linspace(0, 1, 200), [0.2, 0.9]])
    label = np.where(confidence < 0.5, 2, said)  # wrong below a half, whatever is said
    label[-2] = 1  # but for one lucky flow of the class with two
    later = np.where(confidence < 0.5, 2, said)
    early, late = np.ones(202), np.zeros(202)
    answers = by_class.Said(said, confidence, early), by_class.Said(later, confidence, late)
    (found,) = by_class.thresholds(label, answers, price=0.1, classes=3)
    assert found[0] == pytest.approx(0.5, abs=0.03)
    assert found[1] == 0.9  # alone, it would have passed on neither


def test_thresholds_by_class_are_tried_on_captures_that_they_were_not_fitted_to():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 400)
    fast = np.eye(2)[label] * rng.random((400, 1)) * 3 + rng.random((400, 2))
    slow = np.eye(2)[label] * 6.0

    def search(label):
        offered = [Candidate("fast", 1, fast, 5.0), Candidate("slow", 10, slow, 50.0)]
        ready = {1: np.zeros(400), 10: np.full(400, 2.0)}
        return choose.Search(offered, flows_of(label, ready), "per_class")

    plain = search(label)
    tried = plain._part == 0
    otherwise = search(np.where(tried, 1 - label, label))
    sure = [one._sure_by_class((0, 1), 0.05)[0] for one in (plain, otherwise)]
    assert (sure[0][tried] == sure[1][tried]).all()
    assert (sure[0][~tried] != sure[1][~tried]).any()
    assert 0.6 < sure[0].mean() < 0.8


def test_a_stage_that_passes_nobody_on_is_the_last():
    label = np.tile([0, 1], 50)
    right, wrong = np.eye(2)[label] * 6.0, np.eye(2)[1 - label] * 6.0
    offered = [Candidate("fast", 1, right, 5.0), Candidate("slow", 10, wrong, 50.0)]
    flows = flows_of(label, {1: np.zeros(100), 10: np.full(100, 2.0)})
    plan = choose.Plan(
        (0, 1), (0.5,), figures(walk([Step(label, label >= 0, label, 1.0)]), label, 2, 1)
    )
    (only,) = choose.settle(plan, offered, flows, "per_class")
    assert only.candidate == 0 and only.rule is None


def flows_of(label, ready, classes=("a", "b")):
    label = np.array(label)
    return Flows(label, np.arange(len(label)), classes, {d: np.array(t) for d, t in ready.items()})


def two_candidates():
    """A fast one that knows when it is wrong, and a slow one that is right."""
    label = np.tile([0, 1], 50)
    knows = np.arange(100) < 60
    fast = np.where(knows[:, None], np.eye(2)[label] * 6, [[0.2, 0.0]])
    slow = np.eye(2)[label] * 6.0
    flows = flows_of(label, {1: np.zeros(100), 10: np.full(100, 2.0)})
    return [Candidate("fast", 1, fast, 5.0), Candidate("slow", 10, slow, 50.0)], flows


def picked(offered, flows, target, slack=0.0):
    """All plans, and the one that is taken."""
    search, slow = choose.Search(offered, flows), fit.slowest(offered)
    lead = pick.Lead(flows, offered[slow].scores.argmax(axis=1))
    plans = search.plans()
    take = pick.pick(plans, target, slow, lambda plan: lead.interval(search.said(plan)), slack)
    return plans, take


def test_the_search_finds_the_share_that_costs_nothing():
    offered, flows = two_candidates()
    plans, choice = picked(offered, flows, "median-latency")
    alone = {plan.chain: plan.figures.macro_f1 for plan in plans if len(plan.chain) == 1}
    assert alone[(1,)] == 1.0 and alone[(0,)] < 0.9
    best = choice.plan
    assert best.chain == (0, 1) and best.figures.median_s < 0.001
    assert best.figures.macro_f1 >= 0.99
    assert choice.holds and choice.low == choice.high == 0.0
    assert picked(offered, flows, "f1")[1].plan.figures.macro_f1 == 1.0
    front = pick.pareto(plans, "median-latency")
    f1, latency = zip(*((one.figures.macro_f1, one.figures.median_s) for one in front), strict=True)
    assert list(f1) == sorted(f1, reverse=True) and list(latency) == sorted(latency, reverse=True)
    with pytest.raises(UsageError, match="no target 'luck'"):
        picked(offered, flows, "luck")


@pytest.mark.parametrize("kind", choose.RULES)
def test_rules_do_what_the_plan_said(kind):
    offered, flows = two_candidates()
    plan = picked(offered, flows, "median-latency")[1].plan
    first, last = choose.settle(plan, offered, flows, kind)
    assert first.rule.kind == kind and last.rule is None
    probabilities = calibrate.probabilities_of(offered[0].scores, first.temperature)
    sure = choose.is_sure(first.rule, probabilities, flows.classes)
    right = probabilities.argmax(axis=1) == flows.label
    assert right[sure].all()
    assert sure.mean() == pytest.approx(0.6, abs=0.05)
    assert first.rule == Rule(**vars(first.rule))  # as the file takes it


def test_times_at_depths_are_those_of_the_packets(tmp_path):
    rows = read_at_depths(
        datasets.find_recordings(write_recordings(tmp_path)), (1, 3, 10), Input(wait_s=0.5)
    )
    assert len(rows) == 120 and rows.packets.tolist() == [6] * 120
    # six packets, a millisecond apart, then nothing for the waiting time or the capture's end
    assert rows.at(1) == pytest.approx(0)
    assert rows.at(3) == pytest.approx(0.002, abs=1e-6)
    assert set(np.round(rows.at(10), 3)) <= {0.005, 0.505}
    alone = datasets.read(datasets.find_recordings(tmp_path), Input(10, wait_s=0.5), depth=3)
    assert (rows.datasets[3].stats == alone.stats).all()
    assert (rows.datasets[3].label == alone.label).all()
    with pytest.raises(UsageError, match="ascending"):
        read_at_depths([], (3, 1), Input())


def depth_rows(is_shuffled=False, seed=0):
    """Flows whose class is seen at ten packets, and at one packet for half of them."""
    deep = made_up(flows=360, is_shuffled=is_shuffled, seed=seed)
    deep.stats[:, EVERY.index("s_bytes_mean")] *= 1 if is_shuffled else 1 + deep.label
    shallow = replace(deep, stats=deep.stats.copy())
    blind = np.arange(360) // 6 % 2 == 0  # in each of the six captures
    shallow.stats[blind, EVERY.index("s_bytes_mean")] = -100  # says that it does not know
    ready = np.column_stack([np.zeros(360), np.full(360, 3.0)])
    return DepthRows({1: shallow, 10: deep}, ready, np.full(360, 10), Input(10))


def fit_rows(rows, target="early"):
    wanted = [candidates.parse("lightgbm", (1, 10))]
    return fit.fit(wanted, rows, candidates.Training(), fit.Target(target))


def test_a_cascade_is_fitted_and_answers_the_easy_half_early(tmp_path):
    result = fit_rows(depth_rows())
    test = result.test
    assert test["cascade"].macro_f1 > 0.9 and test["lightgbm@1"].macro_f1 < 0.8
    assert test["cascade"].early > 0.4
    assert test["oracle"].macro_f1 >= test["cascade"].macro_f1 > test["random"].macro_f1 + 0.05
    assert not result.weak and not report.warnings(result)
    assert sum(result.flows) == 360 and min(result.flows) > 100
    cascade = fit.write(result, tmp_path / "c.toml")
    assert stages.load(tmp_path / "c.toml") == cascade
    assert [one.packets for one in cascade.stages] == [1, 10]
    assert all((tmp_path / one.model).exists() for one in cascade.stages)
    json.dumps(report.as_numbers(result))


def test_what_cannot_be_learnt_stays_at_chance_and_is_warned_of():
    result = fit_rows(depth_rows(is_shuffled=True))
    assert result.test["lightgbm@10"].accuracy < 0.5
    assert all(one.separation["least_confidence"].is_weak for one in result.stages)
    chained = replace(result, stages=[*result.stages, *result.stages])
    assert "no better than random" in report.warnings(chained)[0]


def test_a_file_is_judged_as_it_is_and_not_on_what_it_learnt(tmp_path):
    rows = depth_rows()
    fit.write(fit_rows(rows), tmp_path / "c.toml")
    file = str(tmp_path / "c-lightgbm-10.onnx")
    other = depth_rows(seed=5)
    found = fit.fit([candidates.parse(file, ())], other, candidates.Training(), fit.Target())
    assert found.made[0].contents is None and found.test["lightgbm-10@10"].macro_f1 > 0.9
    with pytest.raises(UsageError, match="was trained on these flows"):
        fit.fit([candidates.parse(file, ())], rows, candidates.Training(), fit.Target())
    with pytest.raises(UsageError, match="--mask"):
        fit.fit([candidates.parse(file, ())], other, candidates.Training("none"), fit.Target())


@pytest.mark.parametrize(
    "text, said",
    [("lightgbn", "no model lightgbn"), ("lightgbm@3,1", "ascending"), ("lightgbm@x", "depths")],
)
def test_models_that_make_no_sense(text, said):
    with pytest.raises(UsageError, match=said):
        candidates.parse(text, (1,))


@pytest.mark.parametrize(
    "seconds, text", [(0.00123, "1.23 ms"), (0.9996, "1 s"), (1.146, "1.15 s"), (61, "61 s")]
)
def test_times_for_people(seconds, text):
    assert report.milliseconds(seconds) == text

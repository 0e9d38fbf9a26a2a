"""Of all plans one is taken that surely has what was asked for, or that is said."""

from dataclasses import replace

import numpy as np
import pytest

from etcpipe.cascade import choose
from etcpipe.cascade.choose import Candidate
from etcpipe.errors import UsageError

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from test_cascade_fit import flows_of, picked, two_candidates

from etcpipe.cascade import fit, pick
from etcpipe.evaluation import evaluate


def test_the_interval_of_a_lead_is_that_of_the_bootstrap():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, 400)
    capture = np.arange(400) // 10
    flows = replace(flows_of(label, {1: np.zeros(400)}, ("a", "b", "c")), capture=capture)
    right_by = {share: rng.random(400) < share for share in (0.6, 0.9)}
    few, many = (np.where(right, label, (label + 1) % 3) for right in right_by.values())
    _, low, high = evaluate.difference(label, many, few, capture, 3, seed=1)
    assert pick.Lead(flows, few).interval(many) == pytest.approx((low, high), abs=0.01)
    assert pick.Lead(flows, few).interval(few) == (0.0, 0.0)


def days(first_day_is_odd):
    """A model that waits, one that is as good but for a little, and one that had luck on day 0.

    Ten captures of 40 flows. On day 0 half of what the slow model says is wrong, and all that the
    lucky one says is right; on each other day the lucky one has 3 flows more wrong.
    """
    capture, flow = np.divmod(np.arange(400), 40)
    label = flow % 2
    odd = first_day_is_odd & (capture == 0)
    ready = {1: np.zeros(400), 2: np.full(400, 0.1), 10: np.full(400, 1.0)}
    flows = replace(flows_of(label, ready), capture=capture)
    wrong = {
        "lucky": ~odd & (flow % 13 == 5),
        "honest": (odd & (flow < 20)) | ((flow == 30) & (capture < 2)),
        "slow": odd & (flow < 20),
    }
    sure = np.random.default_rng(1).uniform(2, 4, (400, 1))  # says nothing of errors
    scores = {
        name: np.eye(2)[np.where(one, 1 - label, label)] * sure for name, one in wrong.items()
    }
    return [
        Candidate(name, packets, scores[name], us)
        for name, packets, us in (("lucky", 1, 5.0), ("honest", 2, 5.0), ("slow", 10, 50.0))
    ], flows


def test_a_choice_is_not_taken_for_the_luck_of_one_capture():
    offered, flows = days(first_day_is_odd=True)
    plans, choice = picked(offered, flows, "median-latency", slack=0.02)
    slow = next(one for one in plans if one.chain == (2,)).figures.macro_f1
    good = [one for one in plans if one.figures.macro_f1 >= slow - 0.02]
    looks_best = min(good, key=lambda one: one.figures.median_s)
    offered, flows = days(first_day_is_odd=False)
    later = {(one.chain, one.shares): one.figures for one in choose.Search(offered, flows).plans()}
    assert later[(2,), ()].macro_f1 == 1.0
    assert later[looks_best.chain, looks_best.shares].macro_f1 < 0.95
    taken = later[choice.plan.chain, choice.plan.shares]
    assert choice.holds and taken.macro_f1 > 0.98 and taken.median_s < 0.2


def test_where_no_plan_surely_keeps_the_f1_the_nearest_is_taken_and_that_is_said():
    label = np.tile([0, 1], 40)
    slow = np.eye(2)[label] * 6.0
    sure = np.linspace(1, 6, 80)[:, None]
    wrong = np.eye(2)[1 - label] * sure  # never right
    flows = flows_of(label, {1: np.zeros(80), 10: np.full(80, 2.0)})
    offered = [Candidate("fast", 1, wrong, 5.0), Candidate("slow", 10, slow, 50.0)]
    _, choice = picked(offered, flows, "early", slack=0.01)
    assert not choice.holds and choice.plan.chain == (0, 1) and choice.low < -0.01
    assert picked(offered, flows, "f1", slack=0.01)[1].plan.chain == (1,)


def test_what_is_asked_for_is_reached_or_refused():
    offered, flows = two_candidates()
    search = choose.Search(offered, flows, "per_class")
    plan = next(one for one in search.plans() if (one.chain, one.shares) == ((0, 1), (0.01,)))

    def is_reached(slow_s=2.0, **asked):
        return fit.Target(**asked).is_reached(plan, search, slow_s)

    # of 80 flows that an oracle answers at once, 60 are known and 20 were guessed: three quarters
    assert plan.figures.early == 0.6
    assert is_reached(of_oracle=0.74)
    assert not is_reached(of_oracle=0.76)
    assert is_reached(speed_up=40.5)  # 60 of 100 are more than half of them
    assert not is_reached(speed_up=40.5, slow_s=1e-4)
    with pytest.raises(UsageError, match="ask for less"):
        pick.pick(search.plans(), "early", 1, lambda plan: (0.0, 0.0), reaches=lambda plan: False)


def test_flows_that_are_late_anyway_cost_nothing_where_a_share_of_early_answers_is_asked():
    assert fit.Target("f1").gains_by == "f1"
    assert fit.Target("f1", of_oracle=0.9).gains_by == "early"

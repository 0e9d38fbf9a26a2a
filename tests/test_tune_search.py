"""A search finds what there is to find, and its parts give what can be computed by hand."""

import numpy as np
import pytest

from etcpipe.errors import UsageError

pytest.importorskip("sklearn", reason="a search needs etcpipe[tune]")
from etcpipe.tune.acquisition import expected_improvement, within
from etcpipe.tune.hypervolume import growth, hypervolume, knee, on_front
from etcpipe.tune.priors import Prior, mutual_information
from etcpipe.tune.search import FrontSearch, Limits, Measured, front_of, objectives, run
from etcpipe.tune.space import Choice, ModelKind, Space
from etcpipe.tune.surrogate import Blend, Surrogate

TREE = ModelKind("tree", (("max_depth", 5),))
SPACE = Space(("a", "b", "c", "d", "e", "f"), 20, (TREE,))
# The first tells most; the last two nothing.
PRIOR = Prior(SPACE, np.array([0.8, 0.4, 0.2, 0.2, 0.0, 0.0]))
GAINS = np.array([0.3, 0.15, 0.1, 0.05, 0.0, 0.0])
PRICES = np.array([1.0, 2.0, 4.0, 1.0, 1.0, 8.0])


def measure(choice):
    """Two columns together tell more than each; packets tell less and less."""
    on = SPACE.bits(choice)
    depth = 1 - np.exp(-choice.depth / 4)
    f1 = 0.1 + depth * (GAINS @ on + 0.2 * (on[0] and on[2]))
    return Measured(choice, 1 - f1, 5 + choice.depth * (1 + PRICES @ on))


TRUTH = [measure(choice) for choice in SPACE.all_choices()]


def share(measured):
    """Of the true hypervolume."""
    both = objectives([*TRUTH, *measured])
    scaled = (both - both.min(axis=0)) / np.ptp(both, axis=0)
    reference = (1 + 1e-9, 1 + 1e-9)
    return hypervolume(scaled[len(TRUTH) :], reference) / hypervolume(scaled, reference)


def test_hypervolume_by_hand():
    #                    front: .2 x .3 and .3 x .5       beaten      beyond the reference
    values = np.array([[0.5, 0.5], [0.8, 0.2], [0.9, 0.5], [0.1, 1.5]])
    assert hypervolume(values) == pytest.approx(0.5 * 0.5 + 0.2 * 0.3)
    assert on_front(values).tolist() == [True, True, False, True]
    assert growth(values).tolist() == pytest.approx([0.25, 0.31, 0.31, 0.31])
    assert hypervolume(np.zeros((0, 2))) == 0


def test_of_equal_points_the_first_is_on_the_front():
    assert on_front(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]])).tolist() == [True, False, False]


def test_the_knee_is_farthest_from_the_line_between_the_ends():
    assert knee(np.array([[0.0, 10.0], [0.2, 3.0], [0.7, 2.0], [1.0, 0.0]])) == 1
    assert knee(np.array([[0.3, 7.0]])) == 0


def test_expected_improvement_is_what_random_draws_give():
    rng = np.random.default_rng(0)
    values = np.array([[0.2, 0.7], [0.5, 0.4], [0.8, 0.1], [0.9, 0.9]])
    reference, mean, deviation = np.array([1.0, 1.1]), np.array([0.45, 0.35]), np.array([0.2, 0.1])
    draws = mean + deviation * rng.standard_normal((20_000, 2))
    before = hypervolume(values, tuple(reference))
    grown = [hypervolume(np.vstack([values, one]), tuple(reference)) - before for one in draws]
    found = expected_improvement(mean[None], deviation[None], values, reference)
    assert found[0] == pytest.approx(np.mean(grown), rel=0.03)


def test_within_is_the_normal_distribution():
    found = within(1.96, np.array([0.0, 1.96]), np.array([1.0, 3.0]))
    assert found.tolist() == pytest.approx([0.975, 0.5], abs=1e-4)


def test_a_surrogate_goes_through_its_points_and_is_unsure_between():
    places = np.linspace(0, 1, 8)[:, None]
    values = np.sin(6 * places[:, 0])
    found = Surrogate(places, values)
    mean, deviation = found.predict(places)
    assert mean == pytest.approx(values, abs=0.1)
    between, unsure = found.predict(np.array([[0.5 / 7], [3.0]]))
    assert between[0] == pytest.approx(np.sin(6 * 0.5 / 7), abs=0.1)
    assert unsure[1] > 3 * deviation.max()


def test_the_gradient_of_a_surrogate_is_that_of_its_loss():
    rng = np.random.default_rng(1)
    places = rng.random((12, 3))
    found = Surrogate(places, places @ [1.0, 2.0, 0.0] + 0.1 * rng.standard_normal(12))
    at = np.array([0.3, -0.4, 1.0, -3.0, 0.2])
    _, gradient = found._loss(at)
    for i, step in enumerate(1e-5 * np.eye(5)):
        slope = (found._loss(at + step)[0] - found._loss(at - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", [Surrogate, Blend])
def test_what_is_known_is_guessed_and_changes_no_setting(kind):
    rng = np.random.default_rng(4)
    places = rng.random((20, 2))
    found = kind(places, 3 * places[:, 0] + rng.standard_normal(20))
    settings, (before, _) = found.settings.copy(), found.predict(np.array([[0.5, 0.5]]))
    found.know(np.full((50, 2), 0.5), np.full(50, 9.0))
    mean, _ = found.predict(np.array([[0.5, 0.5]]))
    assert found.settings.tolist() == settings.tolist()
    assert before[0] < 4 < mean[0]


@pytest.mark.parametrize("kind", [Surrogate, Blend])
def test_equal_values_are_no_reason_to_fail(kind):
    found = kind(np.random.default_rng(0).random((6, 4)), np.full(6, 3.0))
    mean, _ = found.predict(np.zeros((2, 4)))
    assert mean.tolist() == pytest.approx([3.0, 3.0])


def test_a_step_is_guessed_better_with_trees():
    rng = np.random.default_rng(3)
    places, others = rng.random((30, 4)), rng.random((400, 4))
    steps = [(one[:, 0] > 0.5) * 1.0 + 0.5 * (one[:, 1] > 0.3) for one in (places, others)]

    def miss(kind):
        """Root mean square, and how improbable the others are by the guess."""
        mean, deviation = kind(places, steps[0]).predict(others)
        away = mean - steps[1]
        unlikely = 0.5 * (away / deviation) ** 2 + np.log(deviation)
        return np.sqrt((away**2).mean()), unlikely.mean()

    alone, blended = miss(Surrogate), miss(Blend)
    assert blended[0] < alone[0] and blended[1] < alone[1]


def test_smooth_values_are_guessed_by_the_process():
    places = np.linspace(0, 1, 12)[:, None]
    others = places[:-1] + 0.04
    mean, _ = Blend(places, np.sin(4 * places[:, 0])).predict(others)
    process, _ = Surrogate(places, np.sin(4 * places[:, 0])).predict(others)
    assert mean == pytest.approx(process, abs=1e-3)


def test_what_is_left_out_is_what_the_other_points_give():
    rng = np.random.default_rng(2)
    places = rng.random((8, 3))
    values = 10 * places[:, 0] + rng.standard_normal(8)
    found = Surrogate(places, values)
    kernel, _ = found._kernel(found.settings)
    targets = (values - values.mean()) / values.std()
    for i, (missed, expected) in enumerate(zip(*found.left_out(), strict=True)):
        others = np.arange(8) != i
        told = np.linalg.solve(kernel[np.ix_(others, others)], kernel[i, others])
        assert missed == pytest.approx((targets[i] - targets[others] @ told) * values.std())
        variance = kernel[i, i] - kernel[i, others] @ told
        assert expected == pytest.approx(np.sqrt(variance) * values.std())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_search_finds_nearly_all_of_the_front_in_40_of_1260_points(seed):
    found = run(FrontSearch(PRIOR), measure, 40, seed)
    assert len({one.choice for one in found}) == 40
    assert share(found) > 0.97


def test_a_search_is_better_than_chance():
    by_chance = [share(run(lambda _, rng: PRIOR.uniform(rng), measure, 30, s)) for s in range(5)]
    assert share(run(FrontSearch(PRIOR), measure, 30, 0)) > max(by_chance)


def test_the_same_seed_gives_the_same_search():
    first, second = (run(FrontSearch(PRIOR), measure, 16, 5) for _ in range(2))
    assert [one.choice for one in first] == [one.choice for one in second]
    assert first[0].choice == SPACE.everything()


def test_a_search_stays_within_its_limits():
    limits = Limits(error=0.5, cost=60.0)
    found = run(FrontSearch(PRIOR, limits), measure, 30, 1)[10:]
    assert np.mean([limits.hold(one) for one in found]) > 0.6
    assert min(one.error for one in found if one.cost <= 60) < 0.35


def test_a_limit_on_another_cost_is_learnt():
    def with_wait(choice):
        one = measure(choice)
        return Measured(choice, one.error, one.cost, {"latency_s": choice.depth / 10})

    found = run(FrontSearch(PRIOR, Limits(others={"latency_s": 0.5})), with_wait, 30, 1)[12:]
    assert np.mean([one.choice.depth <= 5 for one in found]) > 0.7


def test_what_keeps_a_limit_is_not_beaten_by_what_does_not():
    """A cheap, accurate choice that takes too long hides none that is in time."""
    late = Measured(Choice((0,), 9, 0), 0.1, 10.0, {"latency_s": 3.0})
    dear = Measured(Choice((0, 1), 1, 0), 0.2, 30.0, {"latency_s": 0.1})
    poor = Measured(Choice((0, 1, 2), 1, 0), 0.3, 40.0, {"latency_s": 0.1})
    limits = Limits(others={"latency_s": 1.0})
    assert front_of([late, dear, poor]) == [late]
    assert front_of([late, dear, poor], limits) == [late, dear]


def test_a_search_goes_on_where_only_what_breaks_a_limit_is_better():
    """More packets are better and cheaper here; but for one, they are not in time."""

    def with_wait(choice):
        one = measure(choice)
        cost = one.cost if choice.depth > 1 else one.cost + 1000
        return Measured(choice, one.error, cost, {"latency_s": choice.depth / 10})

    best = front_of([with_wait(one) for one in SPACE.all_choices() if one.depth == 1])
    limits = Limits(others={"latency_s": 0.1})
    found = run(FrontSearch(PRIOR, limits), with_wait, 30, 2)
    assert len(best) == 8
    assert len({one.choice for one in best} & {one.choice for one in found}) >= 6


def test_what_others_measure_now_is_left_to_them():
    done = run(FrontSearch(PRIOR), measure, 15, 2)
    first = FrontSearch(PRIOR)(done, np.random.default_rng(0))
    other = FrontSearch(PRIOR)(done, np.random.default_rng(0), [first])
    assert other != first and other not in {one.choice for one in done}


def test_a_space_that_is_measured_whole_ends_the_search():
    space = Space(("a",), 3, (TREE,))
    prior = Prior(space, np.ones(1))
    found = run(
        FrontSearch(prior), lambda one: Measured(one, 0.5 / one.depth, float(one.depth)), 50, 0
    )
    assert sorted(one.choice.depth for one in found) == [1, 2, 3]


def test_the_front_is_in_order_of_cost():
    found = front_of(TRUTH)
    costs, errors = [one.cost for one in found], [one.error for one in found]
    assert costs == sorted(costs) and errors == sorted(errors, reverse=True)


def test_sparse_choices_are_mostly_few_columns_that_tell():
    rng = np.random.default_rng(0)
    drawn = [PRIOR.sparse(rng) for _ in range(500)]
    assert np.median([len(one.features) for one in drawn]) <= 2
    assert np.median([one.depth for one in drawn]) <= 5
    used = np.sum([SPACE.bits(one) for one in drawn], axis=0)
    assert used[0] > 2 * used[5] > 0


def test_information_is_found_where_it_is():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 600)
    rows = np.stack([label + 0.1 * rng.random(600), rng.random(600), np.ones(600)], axis=1)
    found = mutual_information(rows.astype(np.float32), label)
    assert found[0] > 0.9 and found[1] < 0.1 and found[2] == 0


@pytest.mark.parametrize(
    ("rows", "label", "message"),
    [
        (np.ones((9, 2)), np.arange(9) % 2, "no feature is left: every column is the same"),
        (np.random.default_rng(0).random((9, 2)), np.zeros(9, int), "one class only"),
    ],
)
def test_data_that_tell_nothing_are_refused(rows, label, message):
    with pytest.raises(UsageError, match=message):
        mutual_information(rows, label)


def test_a_space_without_columns_is_refused():
    with pytest.raises(UsageError, match="no feature is left to choose from"):
        Space(())


def test_neighbours_are_one_step_away_and_in_range():
    space = Space(("a", "b"), 10, (TREE, TREE, TREE))
    found = space.neighbours(Choice((0,), 9, 0))
    assert Choice((0, 1), 9, 0) in found and Choice((0,), 10, 0) in found
    assert Choice((0,), 9, 1) in found and Choice((0,), 9, 0) not in found
    assert all(one.features and 1 <= one.depth <= 10 for one in found)


def test_changed_choices_stay_in_the_space():
    rng = np.random.default_rng(0)
    for _ in range(300):
        one = SPACE.changed(Choice((0,), 1), rng)
        assert one.features and 1 <= one.depth <= 20 and one.model == 0

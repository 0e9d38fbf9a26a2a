"""Other ways to search keep to the space, and columns chosen by a rule are the right ones."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="a search needs etcpipe[tune]")
pytest.importorskip("optuna", reason="a search needs etcpipe[tune]")
from test_tune_search import PRIOR, SPACE, measure, share

from etcpipe.tune import baselines
from etcpipe.tune.cato import Cato
from etcpipe.tune.search import run
from etcpipe.tune.space import Choice, ModelKind, Space

WAYS = {
    "random": lambda: baselines.random(PRIOR),
    "annealing": lambda: baselines.Annealing(PRIOR, 400.0),
    "nsga2": lambda: baselines.nsga2(SPACE, population=5),
    "tpe": lambda: baselines.tpe(PRIOR, starts=6),
    "cato": lambda: Cato(PRIOR),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_way_to_search_measures_new_points_of_the_space(name):
    found = run(WAYS[name](), measure, 14, 3)
    choices = [one.choice for one in found]
    assert len(set(choices)) == len(choices) == 14
    assert all(one.features and 1 <= one.depth <= 20 for one in choices)
    assert 0.1 < share(found) <= 1


@pytest.mark.parametrize("name", WAYS)
def test_the_same_seed_gives_the_same_points(name):
    first, second = (run(WAYS[name](), measure, 7, 4) for _ in range(2))
    assert [one.choice for one in first] == [one.choice for one in second]


def test_cato_draws_columns_that_tell_and_shallow_depths():
    rng = np.random.default_rng(0)
    drawn = [Cato(PRIOR)([], rng) for _ in range(2000)]
    chance = np.mean([SPACE.bits(one) for one in drawn], axis=0)
    # (1 - 0.4) * information / most + 0.4 / 2, given that not all of
    # .8, .5, .35, .35, .2, .2 came to nothing: 1 - .2 * .5 * .65**2 * .8**2 = .973
    assert chance[0] == pytest.approx(0.8 / 0.973, abs=0.03)
    assert chance[5] == pytest.approx(0.2 / 0.973, abs=0.03)
    assert np.mean([one.depth for one in drawn]) == pytest.approx(0.5 + 20 / 3, abs=0.5)


def test_a_choice_is_the_same_on_its_way_through_optuna():
    space = Space(("a", "b", "c"), 30, (ModelKind("tree", ()), ModelKind("boosted", ())))
    optuna = baselines.import_optuna()
    study = optuna.create_study()
    for choice in (Choice((0, 2), 17, 1), Choice((1,), 1, 0)):
        study.enqueue_trial(baselines.parameters_of(choice, space))
        assert baselines.suggest(study.ask(), space) == choice


def test_columns_by_information_and_by_elimination():
    assert PRIOR.top(2) == (0, 1)
    assert PRIOR.top(10) == (0, 1, 2, 3, 4, 5)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 400)
    rows = rng.random((400, 6)).astype(np.float32)
    rows[:, 3] += label % 2
    rows[:, 5] += label // 2
    assert baselines.by_elimination(rows, label, 2, seed=1) == (3, 5)

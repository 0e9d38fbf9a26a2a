"""What columns tell at a depth, and that a search needs no measurement to know it."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="a search needs etcpipe[tune]")
from etcpipe.tune.guess import Guess
from etcpipe.tune.priors import Prior
from etcpipe.tune.space import Choice, ModelKind, Space
from etcpipe.tune.surrogate import Surrogate
from etcpipe.tune.told import look

TREE = ModelKind("tree", (("max_depth", 5),))
SPACE = Space(("a", "b", "c", "d"), 3, (TREE,), waits_s=(0.1, 1.0))
LABEL = np.array([0, 0, 1, 1])


def rows_at(depth):
    """Of one packet b falls as a grows and c and d are constant; of more all columns differ."""
    a, b = [0, 0, 1, 1], [9, 9, 4, 4]
    c, d = ([5] * 4, [7] * 4) if depth == 1 else ([0, 1, 0, 1], [0, 1, 2, 3])
    return np.array([a, b if depth == 1 else [3, 1, 2, 0], c, d], np.float32).T


@pytest.fixture
def told():
    return look(SPACE, rows_at, LABEL)


def test_columns_of_one_order_or_value_are_the_same(told):
    assert told.same.tolist() == [[0, 0, -1, -1], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_information_is_that_of_the_depth(told):
    assert told.information[0] == pytest.approx([np.log(2), np.log(2), 0, 0])
    assert told.information[1][[0, 2]] == pytest.approx([np.log(2), 0])


def test_places_are_of_the_best_column_of_two_and_of_all(told):
    places = told.places([Choice((0, 2), 1), Choice((2,), 1), Choice((0, 1, 2, 3), 3)])
    assert places[:2].tolist() == pytest.approx(np.array([[1, 0.5, 1 / 3], [0, 0, 0]]))
    assert places[2].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("choice", "least", "most"),
    [
        pytest.param(Choice((1, 2), 1, wait=1), (0,), (0, 1, 2, 3), id="b is a, c is nothing"),
        pytest.param(Choice((3,), 1, wait=1), (2,), (2, 3), id="constants alone"),
        pytest.param(Choice((1, 2), 2, wait=1), (1, 2), (1, 2), id="columns that differ"),
    ],
)
def test_the_least_and_the_most_that_tell_the_same(told, choice, least, most):
    assert told.least(choice) == Choice(least, choice.depth, wait=1)
    assert told.most(choice) == Choice(most, choice.depth, wait=1)


def test_of_one_packet_the_wait_tells_nothing_and_of_more_it_may(told):
    assert told.least(Choice((1,), 1, wait=0)) == Choice((0,), 1, wait=1)
    assert told.least(Choice((1,), 2, wait=0)) == Choice((1,), 2, wait=0)


def test_what_tells_the_same_as_a_measured_choice_has_its_error(told):
    measured = [Choice((0,), 1, wait=1), Choice((0, 1), 2, wait=1), Choice((2, 3), 3, wait=1)]
    values = {"error": np.array([0.5, 0.3, 0.2]), "cost": np.array([1.0, 2.0, 4.0])}
    guess = Guess(Prior(SPACE, np.ones(4), told), measured, values, {})
    same, other = Choice((1, 3), 1, wait=0), Choice((0, 2), 2, wait=1)
    mean, deviation = guess.of([same, other])["error"]
    assert mean[0] == 0.5 and deviation[0] < 1e-5
    assert deviation[1] > 1e-3


def test_what_needs_no_measurement_does_not_make_a_guess_smoother(told):
    measured = [Choice((0,), 1, wait=1), Choice((0, 1), 2, wait=1), Choice((2, 3), 3, wait=1)]
    values = {"error": np.array([0.5, 0.3, 0.2])}
    places = np.hstack([SPACE.places(measured), told.places(measured)])
    guess = Guess(Prior(SPACE, np.ones(4), told), measured, values, {})
    alone = Surrogate(places, values["error"])
    assert guess.settings["error"].tolist() == alone.settings.tolist()

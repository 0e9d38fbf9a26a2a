"""front.json comes back as it was written, and says clearly what is wrong with it."""

import json
from dataclasses import replace

import pytest

from etcpipe.errors import ModelError, UsageError
from etcpipe.tune import front as fronts
from etcpipe.tune.front import Front, Point


def point(number, depth=3, f1=0.8, **more):
    values = {
        "id": number,
        "features": ("dur", "s_bytes_mean"),
        "depth": depth,
        "kind": "tree",
        "parameters": {"max_depth": 8},
        "model": f"models/{number}.onnx",
        "f1": f1,
        "f1_low": f1 - 0.1,
        "f1_high": f1 + 0.1,
        "cpu_ns": 100.0 * depth,
        "cpu_ns_mad": 2.0,
    }
    return Point(**(values | more))


def front(*points):
    return Front(
        "ab" * 8, "stats", "strict", "payload", 1.0, "capture", ("a", "b"), "cpu_ns", points
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    for number in (1, 7):
        (tmp_path / "models" / f"{number}.onnx").write_bytes(b"model")
    fronts.write_front(front(point(1, knee=True), point(7, depth=9, f1=0.9)), tmp_path)
    return tmp_path


def test_a_front_comes_back_as_it_was_written(folder):
    again = fronts.load_front(folder / "front.json")
    assert again == front(point(1, knee=True), point(7, depth=9, f1=0.9))
    assert again == fronts.load_front(folder)


def test_a_point_is_found_by_its_number(folder):
    found = fronts.load_point(f"{folder}/front.json#7")
    assert found.point.depth == 9
    assert found.model == folder / "models/7.onnx"
    assert fronts.load_point(f"{folder}#7") == found


def test_without_a_number_it_is_the_chosen_point_or_else_the_knee(folder):
    assert fronts.load_point(f"{folder}/front.json").point.id == 1
    fronts.write_front(front(point(1, knee=True), point(7, chosen=True)), folder)
    assert fronts.load_point(f"{folder}/front.json").point.id == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("front.json#2", "no point 2: there are 1, 7"),
        ("front.json#x", "give the number of a point"),
        ("other.json#1", "cannot read .*other.json: No such file"),
    ],
)
def test_a_wrong_name_is_explained(folder, name, message):
    with pytest.raises(UsageError, match=message):
        fronts.load_point(f"{folder}/{name}")


def test_a_search_that_was_left_is_to_be_ended(tmp_path):
    (tmp_path / "study.journal").touch()
    with pytest.raises(UsageError, match="was left: end it with --resume"):
        fronts.load_front(tmp_path)


def test_without_a_mark_a_number_is_asked_for(folder):
    fronts.write_front(front(point(1), point(7)), folder)
    with pytest.raises(UsageError, match="no point is marked: give one of 1, 7"):
        fronts.load_point(str(folder))


def test_a_model_file_that_is_gone_is_named(folder):
    (folder / "models/7.onnx").unlink()
    with pytest.raises(ModelError, match=r"models/7.onnx of point 7 is gone"):
        fronts.load_point(f"{folder}/front.json#7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values | {"format": 99}, "of format 99, this etcpipe reads format 1"),
        (lambda values: {"report": 1}, "is no front"),
        (lambda values: values | {"points": [{"id": 1}]}, "is damaged"),
        (lambda values: values | {"points": 3}, "is damaged"),
    ],
)
def test_a_damaged_file_is_refused(folder, change, message):
    file = folder / "front.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ModelError, match=message):
        fronts.load_front(file)


@pytest.mark.parametrize("field", [{"depth": 0}, {"depth": 65}, {"features": ()}])
def test_a_point_out_of_range_is_damage(folder, field):
    fronts.write_front(front(replace(point(1), **field)), folder)
    with pytest.raises(ModelError, match="is damaged"):
        fronts.load_front(folder)


def test_no_json_is_damage(folder):
    (folder / "front.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged: run etcpipe tune again"):
        fronts.load_front(folder)


def test_what_a_later_version_adds_is_passed_over(folder):
    file = folder / "front.json"
    values = json.loads(file.read_text())
    values["points"][0]["colour"] = "red"
    file.write_text(json.dumps(values | {"more": 1}))
    assert fronts.load_front(file).points[0].id == 1


def test_stages_are_the_best_of_each_depth_and_better_than_shallower_ones(tmp_path):
    points = (
        point(1, depth=1, f1=0.5),
        point(2, depth=1, f1=0.6),
        point(3, depth=3, f1=0.55),
        point(4, depth=5, f1=0.9),
    )
    assert fronts.models_by_depth(front(*points), tmp_path) == [
        (1, tmp_path / "models/2.onnx"),
        (5, tmp_path / "models/4.onnx"),
    ]


def test_stages_wait_equally_long(tmp_path):
    points = (
        point(1, depth=2, f1=0.9, wait_s=0.05),
        point(2, depth=3, f1=0.6, wait_s=0.2),
        point(3, depth=5, f1=0.8, wait_s=0.2),
    )
    stages = fronts.models_by_depth(front(*points), tmp_path)
    assert stages == [(3, tmp_path / "models/2.onnx"), (5, tmp_path / "models/3.onnx")]

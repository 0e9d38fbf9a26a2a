"""etcpipe cascade on the command line: fit, show, and what it refuses."""

import json

import pytest
from click.testing import CliRunner
from labelled import write_recordings

from etcpipe.cli.command import cli
from etcpipe.errors import ModelError, UsageError

pytest.importorskip("lightgbm", reason="training needs etcpipe[train]")
from etcpipe.training import trees


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Enough for what is learnt here, and fast."""
    monkeypatch.setattr(trees, "TREES_MAX", 30)


def test_fit_and_show_on_the_command_line(tmp_path):
    folder = write_recordings(tmp_path)
    output = tmp_path / "cascade.toml"
    args = ["cascade", "fit", "lightgbm@1,3", str(folder), "-o", str(output)]
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert "lightgbm@1" in done.output and "oracle" in done.output
    shown = CliRunner().invoke(cli, ["cascade", "show", str(output)], catch_exceptions=False)
    assert "answers all" in shown.output
    told = CliRunner().invoke(cli, ["-j", "cascade", "show", str(output)], catch_exceptions=False)
    assert json.loads(told.output)["stages"][-1]["rule"] is None


def test_a_file_that_could_not_be_attached_is_refused_before_any_work(tmp_path):
    args = ["cascade", "fit", "lightgbm", str(tmp_path), "-o", str(tmp_path / "cascade.txt")]
    refused = CliRunner().invoke(cli, args)
    assert isinstance(refused.exception, UsageError)
    assert "a cascade's file ends in .toml" in str(refused.exception)


def test_stages_in_a_model_file_are_shown_and_listed():
    shown = CliRunner().invoke(cli, ["-j", "cascade", "show"], catch_exceptions=False)
    depths = [stage["packets"] for stage in json.loads(shown.output)["stages"]]
    listed = CliRunner().invoke(cli, ["-j", "model", "list"], catch_exceptions=False)
    by_name = {one["name"]: one["depths"] for one in json.loads(listed.output)}
    assert len(depths) > 1 and by_name["default"] == depths
    assert " or ".join(map(str, depths)) in CliRunner().invoke(cli, ["model", "show"]).output
    alone = CliRunner().invoke(cli, ["cascade", "show", "traffic_moe"])
    assert isinstance(alone.exception, ModelError)

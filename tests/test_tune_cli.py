"""etcpipe tune: from captures to a front whose points run, and what it says of bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tuned
from click.testing import CliRunner
from labelled import SERVERS, write_capture, write_recordings

from etcpipe.cli.command import cli
from etcpipe.errors import EtcpipeError, UsageError

pytest.importorskip("lightgbm", reason="a search needs etcpipe[tune]")
pytest.importorskip("optuna", reason="a search needs etcpipe[tune]")
pytest.importorskip("sklearn", reason="a search needs etcpipe[tune]")
from threadpoolctl import threadpool_info, threadpool_limits

from etcpipe.model import load
from etcpipe.tune import finish, job, study
from etcpipe.tune import front as fronts
from etcpipe.tune.cost import Cost
from etcpipe.tune.front import load_front, load_point
from etcpipe.tune.search import Limits, Measured
from etcpipe.tune.space import ModelKind, Space
from etcpipe.tune.zero_loss import Throughput


class Priced:
    """A profiler that knows what things cost without running them."""

    def __init__(self, *arguments):
        self.measured = 0

    def throughput(self, columns, depth, model, wait_s):
        return Throughput(1000.0 / depth, 1000.0, 512, ())

    def measure(self, columns, depth, model, key, wait_s):
        self.measured += 1
        cpu_ns = 100.0 + depth * (20 + 5 * len(columns))
        rest = dict.fromkeys(
            "cpu_ns_p20 regroup_ns extract_ns infer_ns alone_ns wait_s_p95 reference_ns".split(),
            1.0,
        )
        waits = dict.fromkeys(("wait_s", "latency_s"), depth * wait_s / 1000)
        return Cost(cpu_ns=cpu_ns, cpu_ns_mad=1.0, samples=40, **rest, **waits)


@pytest.fixture
def priced(monkeypatch):
    monkeypatch.setattr(job, "Profiler", Priced)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("recordings"))


def tune(*arguments):
    return CliRunner().invoke(cli, ["tune", *map(str, arguments)])


def error_of(*arguments):
    """The message of an error that is raised on purpose."""
    error = tune(*arguments).exception
    assert isinstance(error, EtcpipeError), error
    return str(error)


def test_a_point_of_a_search_classifies_other_captures(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "REPEATS", 1)
    line = ["--budget", 4, "--depth", 6, "--view", "features"]
    done = tune(recordings, "-o", tmp_path / "best", *line)
    assert done.exit_code == 0, done.exception
    assert "report.html" in done.stdout
    front = load_front(tmp_path / "best")
    assert front.points[-1].f1 > 0.95 and front.points[0].cpu_ns > 0
    assert [one.id for one in front.points if one.knee]
    point = load_point(f"{tmp_path}/best/front.json#0")
    model = load(point.model)
    assert model.view.name == front.view == "features"
    assert (model.columns, model.first_n) == (point.point.features, point.point.depth)
    assert model.description.scores["macro_f1"] == pytest.approx(point.point.f1, abs=1e-4)
    write_capture(tmp_path / "new.pcap", seed=99)
    line = ["classify", "--point", f"{tmp_path}/best#0", str(tmp_path / "new.pcap")]
    verdicts = CliRunner().invoke(cli, ["-j", *line]).stdout.splitlines()
    labels = {(one := json.loads(line))["dest_ip"]: one["etcpipe"]["label"] for line in verdicts}
    assert labels == {address: name for name, address in SERVERS.items()}


def test_everything_that_was_asked_for_is_written(recordings, tmp_path, priced):
    folder = tmp_path / "best"
    done = tune(
        recordings,
        "-o",
        folder,
        "--budget",
        12,
        "--depth",
        6,
        "--baselines",
        "all",
        "--max-cost",
        200,
        "--throughput",
    )
    assert done.exit_code == 0, done.exception
    for name in ("front.png", "hypervolume.png", "depth.png", "features.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    assert all(name in (folder / "report.html").read_text() for name in ("RFE10", "front.png"))
    front = load_front(folder)
    chosen = [one for one in front.points if one.chosen]
    assert len(chosen) == 1 and chosen[0].cpu_ns <= 200 == front.limits["cpu_ns"]
    assert all(one.flows_per_s == 1000 / one.depth for one in front.points)
    rules = [(one["name"], one["at"], one["depth"]) for one in front.baselines]
    assert rules == [
        (name, *at) for name in ("ALL", "RFE10", "MI10") for at in (("6", 6), ("end", 64))
    ]
    searches = front.about["searches"]
    assert set(searches) == {"etcpipe", "random", "NSGA-II", "annealing"}
    assert all(len(one["share"]) == 12 for one in searches.values())
    shown = CliRunner().invoke(cli, ["tune", "show", str(folder)])
    assert "ALL at 6: point" in shown.stdout and "limits: cpu_ns 200" in shown.stdout


def test_costs_are_of_one_model_and_one_thread(recordings, tmp_path, monkeypatch):
    seen = []

    class Watched(Priced):
        def measure(self, columns, depth, model, key, wait_s):
            threads = {pool["num_threads"] for pool in threadpool_info()}
            seen.append((key, model, threads))
            return super().measure(columns, depth, model, key, wait_s)

    monkeypatch.setattr(job, "Profiler", Watched)
    with threadpool_limits(2):
        done = tune(recordings, "-o", tmp_path / "best", "--budget", 3)
    assert done.exit_code == 0, done.exception
    again = [id(model) for key, model, _ in seen if not key]
    assert len(again) == finish.REPEATS * len(set(again))
    assert all(threads == {1} for _, _, threads in seen)


def test_models_name_the_families_that_train_names(tmp_path, priced):
    labels = write_recordings(tmp_path) / "labels.csv"
    labels.write_text(
        labels.read_text().replace("small", "ssh_shell").replace("large", "ssh_transfer")
    )
    done = tune(tmp_path, "-o", tmp_path / "best", "--budget", 3)
    assert done.exit_code == 0, done.exception
    point = load_point(f"{tmp_path}/best#0")
    assert load(point.model).description.families == {"ssh": ("ssh_shell", "ssh_transfer")}


def test_a_search_for_latency_chooses_the_wait_too(recordings, tmp_path, priced):
    line = ["--budget", 24, "--cost", "latency", "--waits", "0.05,0.25", "--baselines", "rules"]
    done = tune(recordings, "-o", tmp_path / "best", *line)
    assert done.exit_code == 0, done.exception
    front = load_front(tmp_path / "best")
    assert front.points[0].wait_s == 0.05 and front.wait_s == 1.0
    assert {one.wait_s for one in front.points} <= {0.05, 0.25, 1.0}
    for one in front.points:
        assert load(tmp_path / "best" / one.model).wait_s == one.wait_s
    assert [one["wait_s"] for one in front.baselines] == [1.0, 60.0] * 3


def test_a_wait_that_is_no_shorter_is_refused(recordings, tmp_path):
    message = error_of(recordings, "-o", tmp_path / "best", "--waits", "0.1,1")
    assert message == "--waits: give times shorter than --wait, 1 s"


def test_other_waits_are_not_searched_unless_asked_for(recordings, tmp_path, priced):
    assert tune(recordings, "-o", tmp_path / "best", "--budget", 6).exit_code == 0
    assert {one.wait_s for one in load_front(tmp_path / "best").points} == {1.0}


def test_a_search_goes_on_where_it_was(recordings, tmp_path, priced):
    folder = tmp_path / "best"
    assert tune(recordings, "-o", folder, "--budget", 5).exit_code == 0
    first = load_front(folder).about["searches"]["etcpipe"]["points"]
    assert "go on with --resume" in error_of(recordings, "-o", folder)
    assert tune(recordings, "-o", folder, "--budget", 8, "--resume").exit_code == 0
    points = load_front(folder).about["searches"]["etcpipe"]["points"]
    assert points[:5] == first and len(points) == 8
    other = error_of(recordings, "-o", folder, "--resume", "--seed", 2)
    assert "has a search with another seed" in other


@pytest.mark.parametrize("text", ["garbage\n", '{"op": 1}\n', "[]\n"])
def test_a_damaged_journal_is_told(recordings, tmp_path, priced, text):
    (tmp_path / "study.journal").write_text(text)
    message = error_of(recordings, "-o", tmp_path, "--budget", 4, "--resume")
    assert message == f"{tmp_path}/study.journal is damaged: give another folder"


def test_ctrl_c_keeps_what_was_measured(recordings, tmp_path, priced, monkeypatch):
    class Interrupted(Priced):
        def measure(self, *arguments):
            if self.measured == 3:
                raise KeyboardInterrupt
            return super().measure(*arguments)

    folder = tmp_path / "best"
    with monkeypatch.context() as patched:
        patched.setattr(job, "Profiler", Interrupted)
        done = tune(recordings, "-o", folder, "--budget", 9)
    assert "3 points are kept, --resume goes on" in done.output
    assert not (folder / "front.json").exists()
    assert tune(recordings, "-o", folder, "--budget", 4, "--resume").exit_code == 0
    assert len(load_front(folder).about["searches"]["etcpipe"]["points"]) == 4


def test_processes_share_a_study(tmp_path):
    space = Space(("a", "b", "c"), 5, (ModelKind("tree", (("max_depth", 5),)),))
    prior = job.Prior(space, np.ones(3))
    one = study.Study.begin(tmp_path, space, {}, resume=False)
    budget = study.Budget(evaluations=14)
    work = study.Work(tmp_path, job.FrontSearch(prior), tuned.slowly, budget, space, None)
    study.search_together(one, tuned.by_size, work, 2, 1)
    measured = one.measured()
    assert 14 <= len(measured) <= 15  # both may begin the last one
    assert len({point.others["process"] for point in measured}) == 2


def test_a_budget_of_time_ends_the_search(tmp_path):
    space = Space(("a",), 40, (ModelKind("tree", (("max_depth", 5),)),))
    one = study.Study.begin(tmp_path, space, {}, resume=False)
    prior = job.Prior(space, np.ones(1))
    one.search(job.FrontSearch(prior), tuned.by_size, study.Budget(seconds=0.5), 1)
    assert 1 <= len(one.measured()) <= 2


def test_a_trial_of_a_process_that_was_killed_is_forgotten(tmp_path):
    space = Space(("a",), 4, (ModelKind("tree", (("max_depth", 5),)),))
    one = study.Study.begin(tmp_path, space, {}, resume=False)
    one._study.ask(study.distributions(space))
    again = study.Study.begin(tmp_path, space, {}, resume=True)
    prior = job.Prior(space, np.ones(1))
    again.search(job.FrontSearch(prior), tuned.by_size, study.Budget(evaluations=1), 1)
    assert len(again.measured()) == 1


def test_limits_say_which_points_are_of_use():
    one = Measured(None, 0.2, 50.0, {"latency_s": 0.1})
    assert Limits(0.2, 50.0, {"latency_s": 0.1}).hold(one)
    for tight in (Limits(error=0.1), Limits(cost=49.0), Limits(others={"latency_s": 0.05})):
        assert not tight.hold(one)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--budget", "10x"], "'10x': give evaluations, as 200, or a time, as 10m"),
        (["--budget", "0"], "'0': give evaluations"),
        (["--depth", "65"], "65 is not in the range 1<=x<=64"),
        (["--cost", "money"], "'money' is not one of 'cpu', 'latency'"),
        (["--waits", "soon"], "'soon': give seconds, as 0.05,0.2, or none"),
        (["--waits", "0.1,0"], "'0.1,0': give seconds"),
    ],
)
def test_a_wrong_option_is_explained(recordings, tmp_path, line, message):
    assert message in tune(recordings, "-o", tmp_path / "best", *line).output


def test_a_split_that_a_search_cannot_have_is_refused(recordings, tmp_path):
    message = error_of(recordings, "-o", tmp_path / "best", "--split", "time")
    assert "does not split by time" in message


def test_one_class_is_refused(tmp_path):
    folder = write_recordings(tmp_path)
    kept = [row for row in (folder / "labels.csv").read_text().splitlines() if "large" not in row]
    (folder / "labels.csv").write_text("\n".join(kept) + "\n")
    assert "only class small: two classes or more" in error_of(folder, "-o", tmp_path / "best")


def test_a_class_of_two_captures_is_refused(tmp_path):
    folder = write_recordings(tmp_path)
    rows = (folder / "labels.csv").read_text().splitlines()
    kept = [row for row in rows if "large" not in row or row[0] in "01"]
    (folder / "labels.csv").write_text("\n".join(kept) + "\n")
    assert "class large is in two captures only" in error_of(folder, "-o", tmp_path / "x")


def test_columns_that_are_the_same_for_all_flows_are_refused(recordings, tmp_path, monkeypatch):
    from etcpipe.tune.data import LabelledFlows

    same = LabelledFlows.rows
    monkeypatch.setattr(LabelledFlows, "rows", lambda *all: np.ones_like(same(*all)))
    message = error_of(recordings, "-o", tmp_path / "best")
    assert message == "no feature is left: every column is the same for all flows"


def test_a_depth_that_no_flow_reaches_is_not_searched(recordings, tmp_path, priced, caplog):
    assert tune(recordings, "-o", tmp_path / "best", "--budget", 4, "--depth", 30).exit_code == 0
    assert "no flow has more than 6 packets: no greater depth is searched" in caplog.text
    assert load_front(tmp_path / "best").about["depth_max"] == 6


def test_a_disturbed_machine_is_told(recordings, tmp_path, priced, monkeypatch):
    calm = Priced.measure
    monkeypatch.setattr(Priced, "measure", lambda *all: replace(calm(*all), is_disturbed=True))
    done = tune(recordings, "-o", tmp_path / "best", "--budget", 4)
    assert "costs were measured on a machine that was disturbed" in done.stdout


def test_a_built_dataset_is_refused(recordings, tmp_path):
    built = CliRunner().invoke(cli, ["dataset", "build", str(recordings), "-o", f"{tmp_path}/rows"])
    assert built.exit_code == 0
    assert "has one depth only" in error_of(tmp_path / "rows", "-o", tmp_path / "best")


def test_rare_classes_are_left_out_if_asked_for(tmp_path, priced):
    folder = write_recordings(tmp_path)
    rows = (folder / "labels.csv").read_text().splitlines()
    rows += ["0.pcap,rare,198.18.0.7,udp,4433", "1.pcap,rare,198.18.0.7,udp,4433"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    for name, seed in (("0.pcap", 50), ("1.pcap", 51)):
        write_capture(folder / name, seed, servers=SERVERS | {"rare": "198.18.0.7"})
    best = tmp_path / "best"
    assert "class rare is in two captures only" in error_of(folder, "-o", best)
    done = tune(folder, "-o", best, "--budget", 3, "--skip-rare")
    assert "left out, in fewer than three captures: rare" in done.output
    assert load_front(best).classes == ("large", "small")


def test_a_cascade_takes_its_stages_from_a_front(recordings, tmp_path, priced):
    assert tune(recordings, "-o", tmp_path / "best", "--budget", 3).exit_code == 0
    (tmp_path / "other").mkdir()
    other = write_recordings(tmp_path / "other", first_seed=40)
    line = ["cascade", "fit", "--front", tmp_path / "best", other, "-o", tmp_path / "cascade.toml"]
    done = CliRunner().invoke(cli, [*map(str, line)])
    assert done.exit_code == 0, done.exception
    depth, model = fronts.models_by_depth(load_front(tmp_path / "best"), tmp_path / "best")[-1]
    written = (tmp_path / "cascade.toml").read_text()
    assert f"packets = {depth}" in written
    assert f'model = "best/models/{model.name}"' in written


def test_a_cascade_of_a_front_is_not_judged_on_captures_of_its_search(recordings, tmp_path, priced):
    assert tune(recordings, "-o", tmp_path / "best", "--budget", 3, "--depth", 6).exit_code == 0
    depths = [n for n, _ in fronts.models_by_depth(load_front(tmp_path / "best"), tmp_path)]
    assert depths != [6]  # so the rows that the cascade reads are others than those of the search
    line = ["cascade", "fit", "--front", tmp_path / "best", recordings, "-o", tmp_path / "c.toml"]
    done = CliRunner().invoke(cli, [*map(str, line)])
    assert isinstance(done.exception, UsageError)
    assert "0.pcap and 3 more of these captures" in str(done.exception)
    assert not (tmp_path / "c.toml").exists()

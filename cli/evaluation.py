"""etcpipe eval: a model file on labelled flows that it has not seen."""

from functools import cached_property
from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import ModelFile, Verb, is_json, print_json
from etcpipe.cli.evaluation_text import as_text
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import (
    TASK_OPTION,
    import_for_training,
    input_of,
    read_data,
    warn_of_stages,
)
from etcpipe.errors import UsageError


class Depths(click.ParamType):
    """Packet counts, separated by commas."""

    name = "depths"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            return [int(one) for one in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: give numbers of packets, as 1,3,5,10", param, ctx)


@click.command("eval", cls=Verb)
@click.argument("model", type=ModelFile())
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@TASK_OPTION
@click.option(
    "--depths",
    type=Depths(),
    metavar="N,N,...",
    help="Also score the flows at these numbers of packets.",
)
@click.option(
    "--occlude", is_flag=True, help="Also score with parts of the input made meaningless."
)
@click.option(
    "--open-set",
    is_flag=True,
    help="Also leave out each class, and compare scores for unknown flows.",
)
@click.option("--few-shot", is_flag=True, help="Also score fits to 1, 5, 10 and 50 flows a class.")
@click.option(
    "--shape",
    multiple=True,
    metavar="SHAPING",
    help="Also score under traffic shaping, such as pad=bucket:128,delay=exp:50ms; `default` is a "
    "suite; may be repeated.",
)
@click.option(
    "--plot",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write plots as PNG files.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with all results.",
)
@click.option("--seed", default=1, help="Seed of intervals and fits.")
@click.option(
    "--i-know-this-leaks", "leaks", is_flag=True, help="Allow DATA that the model was trained on."
)
@click.pass_context
def eval(  # the verb's name
    ctx: click.Context,
    model: str,
    data: tuple[Path, ...],
    task: str | None,
    plot: Path | None,
    html: Path | None,
    seed: int,
    leaks: bool,
    **studies: Any,
) -> None:
    """Score MODEL, a file or the name of a shipped one, on labelled DATA.

    DATA are folders of labelled captures, or a folder of `etcpipe dataset build`, of other
    captures than the model was trained on. --open-set, --few-shot and --shape fit models of
    the same kind again, on folds of DATA.

    \b
    Examples:
      etcpipe eval mine.onnx friday/ --depths 1,3,5,10 --html friday.html
      etcpipe eval mine.onnx friday/ --shape default --shape pad=mtu,dummy=0.2
    """
    from etcpipe import model as models

    loaded = models.load(model)
    datasets, model_eval = import_for_training("dataset", "evaluation.model_eval")
    studies["shape"] = _shapings(studies["shape"])
    anew = [f"--{name}" for name in ("depths", "shape") if studies[name]]
    if anew and any(datasets.is_folder(path) for path in data):
        raise UsageError(f"{anew[0]} needs the captures: a built dataset has one form only")
    given = datasets.Input(loaded.first_n, loaded.count, loaded.wait_s)
    with Steps() as progress:
        _check_input(data, loaded, given)
        dataset = read_data(data, task, given, loaded.mask, [loaded.view.name], progress)
        if not leaks:
            model_eval.check_unseen(loaded, dataset)
        recordings = []
        if anew:
            recordings = [one for path in data for one in datasets.find_recordings(path, task)]
        report = model_eval.evaluate_model(loaded, dataset, seed)
        asked = _Studies(loaded, dataset, given, recordings, seed, progress)
        report |= asked.of(**studies)  # they are named as its parameters
    _write(report, plot, html)
    if is_json(ctx):
        print_json(ctx, report)
        return
    warn_of_stages(loaded)
    click.echo(as_text(report))


def _write(report: dict[str, Any], plot: Path | None, html: Path | None) -> None:
    """Write what was asked for, and note in the report what was drawn."""
    if plot:
        from etcpipe.evaluation import plots

        report["plots"] = [str(path) for path in plots.draw(report, plot)]
    if html:
        from etcpipe.cli import evaluation_page

        evaluation_page.write(report, html)


def _shapings(texts: tuple[str, ...]) -> list[Any]:
    from etcpipe.shaping import SUITE, parse

    named = [one for text in texts for one in (SUITE if text == "default" else (text,))]
    return [parse(text) for text in dict.fromkeys(named)]


def _check_input(data: tuple[Path, ...], loaded: Any, given: Any) -> None:
    built = input_of(data, given)
    if built != given:
        raise UsageError(
            f"{data[0]} was built with {_flags(built)}, {loaded} wants {_flags(given)}: build one"
        )


def _flags(given: Any) -> str:
    return f"--first {given.first_n} --counting {given.count} --wait {given.wait_s:g}"


class _Studies:
    """What is asked beside the scores; some fit models of the same kind again, on folds."""

    def __init__(
        self,
        loaded: Any,
        dataset: Any,
        given: Any,
        recordings: list[Any],
        seed: int,
        progress: Steps,
    ) -> None:
        self._model, self._dataset, self._input = loaded, dataset, given
        self._recordings, self._seed, self._progress = recordings, seed, progress

    def of(
        self,
        *,
        occlude: bool,
        depths: list[int] | None,
        open_set: bool,
        few_shot: bool,
        shape: list[Any],
    ) -> dict[str, Any]:
        """Return the report of those that are asked for, by name."""
        report: dict[str, Any] = {}
        if occlude:
            report["occlusion"] = self._occlusion()
        if depths:
            report["depths"] = self._depths(depths)
        if open_set:
            report["open_set"] = self._open_set()
        if few_shot:
            report["few_shot"] = self._few_shot()
        if shape:
            report["shape"] = self._shape(shape)
        return report

    @cached_property
    def _learner(self) -> Any:
        (trains,) = import_for_training("training.train")
        model = self._model
        arch = model.description.scores.get("arch", trains.TREES)
        settings = trains.Settings(self._input, mask=model.mask, seed=self._seed, arch=arch)
        return trains.learners_of(self._dataset, settings)[0]

    def _occlusion(self) -> Any:
        (model_eval,) = import_for_training("evaluation.model_eval")
        return model_eval.without_parts(self._model, self._dataset, self._seed)

    def _depths(self, depths: list[int]) -> Any:
        (model_eval,) = import_for_training("evaluation.model_eval")
        return model_eval.f1_at_depths(self._model, self._recordings, depths, self._seed)

    def _open_set(self) -> dict[str, Any]:
        (open_sets,) = import_for_training("evaluation.open_set")
        mask = self._model.mask
        return open_sets.measure(
            self._dataset, self._learner, mask, seed=self._seed, on_step=self._progress
        )

    def _few_shot(self) -> dict[int, Any]:
        (few_shots,) = import_for_training("evaluation.few_shot")
        return few_shots.measure(
            self._dataset, self._learner, seed=self._seed, on_step=self._progress
        )

    def _shape(self, shapings: list[Any]) -> dict[str, Any]:
        shape_eval, model_eval = import_for_training(
            "evaluation.shape_eval", "evaluation.model_eval"
        )
        model, seed = self._model, self._seed
        views = (model.view.name,)
        reading = shape_eval.Reading(self._recordings, self._input, model.mask, views, seed)
        return shape_eval.measure(
            reading,
            self._learner,
            shapings,
            on_step=self._progress,
            of_model=lambda shaped: model_eval.evaluate_model(model, shaped, seed)["macro_f1"],
        )

"""Man pages: one for each verb, with each of its options and their variables."""

import re
import shutil
import subprocess
import sys

import click
import pytest
from command import ROOT

from etcpipe.cli import command, settings

ROOT_CONTEXT = click.Context(command.cli, info_name="etcpipe")
VERBS = dict(settings.verbs_of(ROOT_CONTEXT))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the text of each page by its name, as tools/man writes them."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "man"), str(folder)], check=True, capture_output=True
    )
    return {path.stem: path.read_text() for path in folder.iterdir()}


def test_each_verb_has_a_page(pages):
    assert set(pages) == {"-".join(("etcpipe", *words)) for words in VERBS}


def test_a_page_has_its_options_with_their_variables(pages):
    for variable, words, option in settings.variables(ROOT_CONTEXT):
        text = pages["-".join(("etcpipe", *words))].replace("\\-", "-").replace("\\%", "")
        for flag in option.opts:
            assert re.search(rf"(?m)^\\fB.*{re.escape(flag)}\b", text), (words, flag)
        if not option.is_eager:
            assert f"Environment: {variable}." in text


def test_examples_stand_as_they_are_typed(pages):
    page = pages["etcpipe-attach"].replace("\\-", "-")
    examples = page.split(".SH EXAMPLES\n.nf\n")[1].split("\n.fi")[0].splitlines()
    assert "etcpipe attach eth0" in examples
    assert all(line.startswith("etcpipe") for line in examples)


def test_exit_statuses_are_those_of_the_help(pages):
    text = pages["etcpipe"].split(".SH EXIT STATUS\n")[1].split(".SH")[0]
    assert re.findall(r"\\fB(\d)\\fR", text) == list("012345")


def test_pages_repeat(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    script = [sys.executable, str(ROOT / "tools" / "man"), str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True)
    assert '"1970-01-02"' in (tmp_path / "etcpipe.1").read_text()


@pytest.mark.skipif(not shutil.which("man"), reason="no man")
def test_man_shows_them_without_a_warning(pages, tmp_path):
    for name, text in pages.items():
        path = tmp_path / f"{name}.1"
        path.write_text(text)
        shown = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(path)],
            capture_output=True,
            text=True,
            check=True,
            env={"MANROFFSEQ": "", "MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
        )
        assert shown.stderr == "", name

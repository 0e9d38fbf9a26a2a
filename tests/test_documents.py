"""What the documents show: commands and options that there are, and files that lie there."""

import re
import shlex
from pathlib import Path

import click
import pytest
from command import ROOT

from etcpipe.cli import command, settings

# The change log and reports of a day (docs/benchmarks/DATE-MACHINE.md) name things as they were.
PAGES = sorted(
    [
        *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),
        *(ROOT / "docs").rglob("[a-z]*.md"),
        *(ROOT / "docs").rglob("README.md"),
        *ROOT.glob("etcpipe/models/*.md"),
    ]
)
ROOT_CONTEXT = click.Context(command.cli, info_name="etcpipe")
VERBS = dict(settings.verbs_of(ROOT_CONTEXT))
FOLDERS = {"bpf", "cli", "debian", "docs", "etcpipe", "examples", "gpu", "tests", "tools"}
MADE = {"gpu/kernels"}  # by tools/fatbin
OPTION = re.compile(r"--?[a-zA-Z][\w-]*")
# From `etcpipe` or a script of tools/ to the end of the command.
CALL = re.compile(r"(?:^|[\s/])(etcpipe|tools/[\w/.]+)( [^|;&]*)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@each_page
def test_commands_have_the_options_that_are_shown(page):
    for line in _code(page):
        for program, rest in CALL.findall(line.partition(" # ")[0]):
            words = shlex.split(rest.replace("...", ""))
            known = _options(words) if program == "etcpipe" else _written_in(ROOT / program)
            for word in words:
                flag = word.partition("=")[0]
                assert not OPTION.fullmatch(flag) or flag in known, line


@each_page
def test_files_that_are_named_lie_there(page):
    for line in _code(page):
        for word in re.split(r"[\s,;:()]+", line):
            first, _, rest = word.partition("/")
            if first in FOLDERS and re.fullmatch(r"[\w./*-]+", rest) and word not in MADE:
                assert list(ROOT.glob(word.rstrip("/"))), word


def test_a_wrong_option_and_a_lost_file_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("`etcpipe attach eth0 --no-such`\n\n    gpu/gone.py\n")
    with pytest.raises(AssertionError, match="no-such"):
        test_commands_have_the_options_that_are_shown(page)
    with pytest.raises(AssertionError, match="gone"):
        test_files_that_are_named_lie_there(page)


def _code(page: Path) -> list[str]:
    """Return what a page shows as code: indented, fenced, or within a line; \\ joins lines."""
    text = page.read_text().replace("\\\n", "")
    fenced = re.compile(r"(?ms)^ *```.*?\n(.*?)^ *```")
    lines = [line for block in fenced.findall(text) for line in block.splitlines()]
    for paragraph in re.split(r"\n\s*\n", fenced.sub("", text)):
        if paragraph.startswith("    "):
            lines += paragraph.splitlines()
        else:
            lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", paragraph)]
    return lines


def _options(words: list[str]) -> set[str]:
    """Return the options of the verb that the words of a command begin with, and etcpipe's own."""
    verb: tuple[str, ...] = ()
    for word in words:
        if (*verb, word) in VERBS:
            verb = (*verb, word)
    # the word search may be left out
    commands = [VERBS[()], VERBS[verb], *([VERBS["tune", "search"]] if verb == ("tune",) else [])]
    return {flag for known in commands for option in known.params for flag in option.opts}


def _written_in(script: Path) -> set[str]:
    """Return the options that a script of tools/, or what scripts there share, declares."""
    texts = (path.read_text() for path in (script, *script.parent.glob("common.*")))
    return {flag for text in texts for flag in OPTION.findall(text)}

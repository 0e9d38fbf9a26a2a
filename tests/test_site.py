"""The documentation's site: links lead somewhere, and no page is left out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("etcpipe/models/*.md")]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {text.strip().replace(" ", "-") for text in words}


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"(docs/[\w-]+\.md)", text))
    assert named == {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}


def test_pages_stand_as_in_the_repository(tmp_path):
    if not shutil.which("man"):
        pytest.skip("no man")
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "site"), str(tmp_path)],
        check=True,
        capture_output=True,
    )
    pages = tmp_path / "pages"
    assert (pages / "README.md").exists()
    assert (pages / "docs" / "demo.svg").exists()
    assert (pages / "etcpipe" / "schema" / "verdict.schema.json").exists()
    attach = (pages / "commands" / "etcpipe-attach.md").read_text()
    assert "ETCPIPE_ATTACH_FIRST" in attach
    assert "commands/etcpipe-attach.md" in (tmp_path / "mkdocs.yml").read_text()

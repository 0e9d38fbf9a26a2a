"""One HTML page of an evaluation: tables, plots and every number, in one file."""

import base64
import json
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from etcpipe.cli.evaluation_text import as_text
from etcpipe.errors import OutputError
from etcpipe.evaluation import plots

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
pre {{ overflow-x: auto; background: #f6f6f6; padding: 1em; }}
img {{ max-width: 48%; }}
</style></head><body>
<h1>{title}</h1>
<pre>{text}</pre>
{images}
<details><summary>Every number, as JSON</summary><pre>{numbers}</pre></details>
</body></html>
"""


def write(report: dict[str, Any], path: Path) -> None:
    """Write the page; it needs no other file.

    Args:
        report: of model_eval.evaluate_model(), with what was measured beside it.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = [_image(drawing) for drawing in plots.draw(report, Path(folder))]
    page = _PAGE.format(
        title=escape(f"Evaluation of {report['model']}"),
        text=escape(as_text(report)),
        images="\n".join(images),
        numbers=escape(json.dumps(report, indent=1)),
    )
    try:
        path.write_text(page)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _image(drawing: Path) -> str:
    data = base64.b64encode(drawing.read_bytes()).decode()
    return f'<img alt="{drawing.stem}" src="data:image/png;base64,{data}">'

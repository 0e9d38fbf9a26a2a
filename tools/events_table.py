"""Writes the table of fields into docs/events.md from the JSON Schema; run after a change of it."""

import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "etcpipe/schema/verdict.schema.json"
PAGE = ROOT / "docs/events.md"
START, END = "## Fields", "## What to know"

# Names of columns where they are not the last word of the path.
COLUMNS = {
    "etcpipe.latency_us.wait": "wait_us",
    "etcpipe.latency_us.queue": "queue_us",
    "etcpipe.latency_us.infer": "infer_us",
}


def rows(node: dict, path: str = "") -> Iterator[tuple[str, str, bool, str]]:
    """Yield path, column, whether it is always there, and description of each field."""
    for name, field in node["properties"].items():
        place = f"{path}{name}"
        if "properties" in field:
            yield from rows(field, f"{place}.")
            continue
        column = COLUMNS.get(place, name)
        yield place, column, name in node["required"], field.get("description", "")


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| JSON | column | always | meaning |", "|---|---|---|---|"]
    for path, column, always, description in rows(json.loads(SCHEMA.read_text())):
        named = f"`{column}`" if column else ""
        lines.append(f"| `{path}` | {named} | {'yes' if always else ''} | {description} |")
    return "\n".join(lines)


def page() -> str:
    """Return docs/events.md with the table of now; the text around it stays."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    intro = rest.split("\n\n")[1]
    return f"{before}{START}\n\n{intro}\n\n{table()}\n\n{END}{text.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page())

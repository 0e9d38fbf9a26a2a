"""Print docs/features.md from the declarations of the views.

.venv/bin/python tools/features_doc.py > docs/features.md
"""

from etcpipe.gpu.views import MASKS, MISSING, VIEWS, View

HEAD = """# Features: the views of a flow

Printed from `gpu/views.py` by `tools/features_doc.py`; change it there. `gpu/views_cpu.py` is
the definition in NumPy.

A view is what a model sees of a flow's first packets: those that count (by default TCP and UDP
packets with payload), in order of their rank, as many as the model's `first_n`. A packet that was
lost on the way is left out.

- A count or a sum of nothing is 0; any other statistic of nothing is {missing:g}, never NaN.
- Time is the packets' own clock; a step back counts as no time.
- `s_` is from the flow's initiator, `d_` towards it.
- Sizes are IP lengths, headers included.
- A row has the same bits in whatever batch it is computed, so training and serving agree.

## Masks

What a model may not see. The bytes of `raw` follow the same masks by parsed field
(`gpu/mask.py`).

| mask | hides | columns of `stats` left |
| --- | --- | ---: |
{masks}
"""


def main() -> None:
    """Print the page."""
    stats = VIEWS["stats"]
    masks = "\n".join(
        f"| `{mask}` | {', '.join(sorted(hidden)) or 'nothing'} | {len(stats.column_names(mask))} |"
        for mask, hidden in MASKS.items()
    )
    print(HEAD.format(missing=MISSING, masks=masks), end="")
    for view in VIEWS.values():
        print(section(view), end="")


def section(view: View) -> str:
    """Return the part of the page about one view."""
    shape = " x ".join(map(str, view.shape))
    lines = ["", f"## {view.name}: {shape} {view.dtype}", "", _sentence(view.summary)]
    if view.columns:
        lines += ["", "| column | unit | what it is | hidden with |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{one.name}` | {one.unit} | {one.formula} | {one.field} |" for one in view.columns
        ]
    return "\n".join([*lines, ""])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    main()

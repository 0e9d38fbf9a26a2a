"""Print docs/features.md from the declarations of the views.

.venv/bin/python tools/features_doc.py > docs/features.md
"""

from itertools import groupby

from etcpipe.gpu.features_states import STATES
from etcpipe.gpu.views import MASKS, MISSING, VIEWS, Column, View

HEAD = """# Features: the views of a flow

This page is the reference of what a model can see of a flow: every view with its columns.

A *view* is a kind of model input. It is made from a flow's first packets: those that count (by
default TCP and UDP packets with payload), in order of their rank, as many as the model's
`first_n`. A packet that was lost on the way is left out.

- A count or a sum of nothing is 0; any other statistic of nothing is {missing:g}, never NaN.
- Time is the packets' own clock; a step back counts as no time.
- `s_` is from the flow's initiator, `d_` towards it.
- Sizes are IP lengths, headers included.
- A row has the same bits in whatever batch it is computed, so training and serving agree.

`gpu/views_cpu.py` and `gpu/features_cpu.py` define the views in NumPy. Columns about whole flows
(`stats`, `features`) are computed in C (`etcpipe/native/feature_rows.c`), which gives the same
bits and computes only what the chosen columns need: the states at the [end of this
page](#what-is-kept-of-a-flow). `tools/features_doc.py` prints this page from `gpu/views.py` and
`gpu/features.py`: change it there.

| view | shape | what it is |
| --- | --- | --- |
{views}

## Masks

A mask says what a model may not see. The bytes of `raw` follow the same masks by parsed field
(`gpu/mask.py`).

| mask | hides | columns of `stats` left |
| --- | --- | ---: |
{masks}
"""

# What a view's summary cannot say.
NOTES = {
    "bits": """Each part has room for its greatest length. A column is a bit, highest first: 0, 1,
or -1 if the packet has no such header, option or byte. `nprint -4 -6 -t -u -p 24` has the same
columns under the same names. The differences from nPrint are:

- Bytes are masked as those of `raw`: what `strict` makes zero in a header (addresses, ports,
  sequence numbers, IP id, TTL, TOS, window, checksums, values of options) is zeros, and hidden
  payload is ones.
- A row has the first ten packets that count beside each other; one that never came is all -1.
- TCP and UDP are in their places after extension headers of IPv6, which have no columns.
- There is no ICMP, as it makes no flows here. What a capture cut off is -1.""",
}

KEPT = """To compute columns, the states that they name are kept for each flow, with those that
these build on, and no others. Fields are those of `struct packet_fields` (`bpf/etcpipe.h`). All
states are whole numbers; means, deviations, shares and entropies are computed from them
afterwards.
"""


def main() -> None:
    """Print the page."""
    stats = VIEWS["stats"]
    masks = "\n".join(
        f"| `{mask}` | {', '.join(sorted(hidden)) or 'nothing'} | {len(stats.column_names(mask))} |"
        for mask, hidden in MASKS.items()
    )
    views = "\n".join(
        f"| [{view.name}](#{_title(view).replace(':', '').replace(' ', '-')}) | {_shape(view)} "
        f"| {_sentence(view.summary)} |"
        for view in VIEWS.values()
    )
    print(HEAD.format(missing=MISSING, views=views, masks=masks), end="")
    for view in VIEWS.values():
        print(section(view), end="")
    print(states(), end="")


def section(view: View) -> str:
    """Return the part of the page about one view."""
    lines = ["", f"## {_title(view)}", "", _sentence(view.summary)]
    lines += ["", NOTES[view.name]] if view.name in NOTES else []
    if view.name == "features":
        columns = view.columns[len(VIEWS["stats"].columns) :]
        lines += ["", f"The {len(VIEWS['stats'].columns)} columns of `stats`, then:"]
    else:
        columns = view.columns
    if columns:
        has_states = "kept of a flow | " if view.is_choice else ""
        lines += ["", f"| column | unit | what it is | {has_states}hidden with |"]
        lines += ["| --- | --- | --- | --- |" + " --- |" * view.is_choice]
        lines += [_row(alike, view.is_choice) for alike in _alike(columns)]
    return "\n".join([*lines, ""])


def _alike(columns: tuple[Column, ...]) -> list[list[Column]]:
    """Return columns in their order, those together of which the same is said."""
    return [list(group) for _, group in groupby(columns, lambda one: (one.unit, one.formula))]


def _row(alike: list[Column], has_states: bool) -> str:
    """Return the line of a column, or of several of which the same is said."""
    column = alike[0]
    name = f"`{column.name}`" if len(alike) == 1 else f"`{column.name}` to `{alike[-1].name}`"
    states = " ".join(f"`{name}`" for name in column.needs) + " | " if has_states else ""
    return f"| {name} | {column.unit} | {column.formula} | {states}{column.field} |"


def states() -> str:
    """Return the table of what may be kept of a flow."""
    lines = [
        "",
        "## What is kept of a flow",
        "",
        KEPT,
        "| state | what it is | reads | builds on |",
    ]
    lines += ["| --- | --- | --- | --- |"]
    for state in STATES.values():
        reads, needs = (" ".join(f"`{n}`" for n in names) for names in (state.reads, state.needs))
        lines.append(f"| `{state.name}` | {state.what} | {reads} | {needs} |")
    return "\n".join([*lines, ""])


def _title(view: View) -> str:
    return f"{view.name}: {_shape(view)} {view.dtype}"


def _shape(view: View) -> str:
    return " x ".join(map(str, view.shape))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    main()

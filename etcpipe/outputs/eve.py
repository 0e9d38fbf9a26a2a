"""Verdicts as lines of JSON in the manner of Suricata's EVE, one object a line.

The lines are formatted, not serialised: json.dumps takes several times as long, and the
only texts that may need escaping (device, labels, model) are few in a batch.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from etcpipe.outputs.columns import Columns, columns_of, endpoint_columns, split_times
from etcpipe.outputs.memo import Memo
from etcpipe.verdict import VerdictBatch

_TIME = "%s.%06d+0000"
_TOTALS = '"pkts_toserver":%d,"pkts_toclient":%d,"bytes_toserver":%d,"bytes_toclient":%d,'
_LINE = (
    f'{{"timestamp":"{_TIME}","event_type":"%s","flow_id":%d,%s'
    '"src_ip":"%s","src_port":%d,"dest_ip":"%s","dest_port":%d,"proto":"%s",%s%s'
    f'"flow":{{{_TOTALS}"start":"{_TIME}","end":"{_TIME}",%s"reason":"%s"}},'
    '"etcpipe":{"label":%s,"probability":%s,%s%s"stage":%d,"depth":%d,'
    '"packets_used":%d,"source":"%s",'
    '"model":%s,"latency_us":{"wait":%d,"queue":%d,"infer":%s},"lost":%d}}'
)

# Numbers with few digits.
_NUMBERS = Memo(repr)


def lines(columns: Columns) -> list[str]:
    """Return one JSON object a flow, without line ends."""
    known = [state is not None for state in columns.state]
    formatted = [_LINE % row for row in _rows(columns)]
    if all(known):
        return formatted
    without = _TOTALS % (0, 0, 0, 0)
    return [
        line if is_known else line.replace(without, "", 1)
        for line, is_known in zip(formatted, known, strict=True)
    ]


def _rows(columns: Columns) -> Iterator[tuple]:
    """Yield what goes into _LINE; totals that are not known as 0."""
    return zip(
        *split_times(columns.timestamp),
        columns.event_type,
        columns.flow_id,
        _fields("in_iface", columns.in_iface),
        columns.src_ip,
        columns.src_port,
        columns.dest_ip,
        columns.dest_port,
        columns.proto,
        ["" if vlan is None else f'"vlan":[{vlan}],' for vlan in columns.vlan],
        ["" if text is None else f'"community_id":"{text}",' for text in columns.community_id],
        *_totals(columns),
        *split_times(columns.start),
        *split_times(columns.end),
        _fields("state", columns.state),
        columns.reason,
        _quoted(columns.label),
        [_NUMBERS[value] for value in columns.probability],
        _fields("runner_up", columns.runner_up),
        _fields("family", columns.family),
        columns.stage,
        columns.depth,
        columns.packets_used,
        columns.source,
        _quoted(columns.model),
        columns.wait_us,
        columns.queue_us,
        [_NUMBERS[value] for value in columns.infer_us],
        columns.lost,
        strict=True,
    )


def events(
    verdicts: VerdictBatch, in_iface: str | None = None, clock_offset_ns: int = 0
) -> list[dict[str, Any]]:
    """Return verdicts as dictionaries, as a reader of the lines sees them."""
    return [json.loads(line) for line in lines(columns_of(verdicts, in_iface, clock_offset_ns))]


def _quoted(texts: Sequence[str]) -> list[str]:
    """Return each text as JSON, escaped once a distinct text."""
    quoted = {text: json.dumps(text) for text in set(texts)}
    return [quoted[text] for text in texts]


def _fields(name: str, texts: Sequence[str | None]) -> list[str]:
    """Return `"name":"text",`, or nothing where there is no text."""
    fields = {text: "" if text is None else f'"{name}":{json.dumps(text)},' for text in set(texts)}
    return [fields[text] for text in texts]


def _totals(columns: Columns) -> Iterator[list[int]]:
    for name in ("pkts_toserver", "pkts_toclient", "bytes_toserver", "bytes_toclient"):
        yield [value or 0 for value in getattr(columns, name)]


def endpoints(verdicts: VerdictBatch, i: int) -> tuple[int, tuple[str, int], tuple[str, int]]:
    """Return protocol number, initiator and responder of row i, each end (address, port)."""
    key, initiator = verdicts.flows.key[i : i + 1], verdicts.flows.initiator[i : i + 1]
    ends = endpoint_columns(key, initiator)
    source, destination = (
        (ends[f"{end}_ip"][0], ends[f"{end}_port"][0]) for end in ("src", "dest")
    )
    return int(key["protocol"][0]), source, destination

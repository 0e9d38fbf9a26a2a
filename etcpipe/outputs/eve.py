"""Verdicts as lines of JSON in the manner of Suricata's EVE, one object a line.

The lines are formatted, not serialised: json.dumps takes four times as long, and the
only texts that need escaping are few (device, labels, model) and known a batch.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from etcpipe.outputs.columns import Columns, columns_of
from etcpipe.verdict import VerdictBatch

_LINE = (
    '{"timestamp":"%s+0000","event_type":"verdict","flow_id":%d,%s'
    '"src_ip":"%s","src_port":%d,"dest_ip":"%s","dest_port":%d,"proto":"%s",%s%s'
    '"flow":{%s"start":"%s+0000","end":"%s+0000",%s"reason":"%s"},'
    '"etcpipe":{"label":%s,"probability":%s,%s"stage":%d,"packets_used":%d,"source":"%s",'
    '"model":%s,"latency_us":{"wait":%s,"queue":%s,"infer":%s},"lost":%d}}'
)


def lines(columns: Columns) -> list[str]:
    """Return one JSON object a flow, without line ends."""
    rows = zip(
        _texts(columns.timestamp),
        columns.flow_id,
        _quoted_fields("in_iface", columns.in_iface),
        columns.src_ip,
        columns.src_port,
        columns.dest_ip,
        columns.dest_port,
        columns.proto,
        ["" if vlan is None else f'"vlan":[{vlan}],' for vlan in columns.vlan],
        ["" if text is None else f'"community_id":"{text}",' for text in columns.community_id],
        _totals(columns),
        _texts(columns.start),
        _texts(columns.end),
        ["" if state is None else f'"state":"{state}",' for state in columns.state],
        columns.reason,
        _quoted(columns.label),
        columns.probability,
        _quoted_fields("runner_up", columns.runner_up),
        columns.stage,
        columns.packets_used,
        columns.source,
        _quoted(columns.model),
        columns.wait_us,
        columns.queue_us,
        columns.infer_us,
        columns.lost,
        strict=True,
    )
    return [_LINE % row for row in rows]


def events(
    verdicts: VerdictBatch, in_iface: str | None = None, clock_offset_ns: int = 0
) -> list[dict[str, Any]]:
    """Return verdicts as dictionaries, as a reader of the lines sees them."""
    return [json.loads(line) for line in lines(columns_of(verdicts, in_iface, clock_offset_ns))]


def _texts(times: np.ndarray) -> list[str]:
    return np.datetime_as_string(times, unit="us").tolist()


def _quoted(texts: Sequence[str]) -> list[str]:
    """Return each text as JSON, escaped once a distinct text."""
    quoted = {text: json.dumps(text) for text in set(texts)}
    return [quoted[text] for text in texts]


def _quoted_fields(name: str, texts: Sequence[str | None]) -> list[str]:
    """Return `"name":"text",`, or nothing where there is no text."""
    fields = {text: "" if text is None else f'"{name}":{json.dumps(text)},' for text in set(texts)}
    return [fields[text] for text in texts]


def _totals(columns: Columns) -> Iterable[str]:
    totals = zip(
        columns.pkts_toserver,
        columns.pkts_toclient,
        columns.bytes_toserver,
        columns.bytes_toclient,
        strict=True,
    )
    fields = '"pkts_toserver":%d,"pkts_toclient":%d,"bytes_toserver":%d,"bytes_toclient":%d,'
    return ["" if row[0] is None else fields % row for row in totals]

"""Traffic shaping of rows: what each change keeps and costs, and some by hand."""

import numpy as np
import pytest
from labelled import write_capture

from etcpipe.capture import Capture
from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.shaping import SUITE, Shaper, changes, parse
from etcpipe.shaping.packets import PAYLOAD_MAX, from_flows, to_flows
from etcpipe.shaping.spec import FORMS

STRENGTHS = {"N": "3", "P": "0.4", "T": "20ms", "R": "500", "C": "30"}
EVERY_FORM = [form[:-1] + STRENGTHS.get(form[-1], form[-1]) for form in FORMS]
RAW_LEN = 200


def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module", params=["strict", "none"])
def flows(request, tmp_path_factory):
    """30 flows of 6 packets of UDP each, 1 ms apart."""
    path = tmp_path_factory.mktemp("capture") / "0.pcap"
    write_capture(path, seed=3)
    regroup = Regroup(12, RAW_LEN, wait_s=100, mask=request.param)
    for batch in Capture([path], 12):
        assert not len(regroup.add(batch))
    return regroup.flush(), request.param


def packets_of(flows):
    batch, mask = flows
    return from_flows(batch, is_masked=mask != "none")


def test_rows_come_back_as_they_were(flows):
    batch, _ = flows
    rows = to_flows(packets_of(flows), batch, 12, 1.0)
    assert rows.packets.tobytes() == batch.packets.tobytes()
    assert rows.raw.tobytes() == batch.raw.tobytes()


@pytest.mark.parametrize("text", [*EVERY_FORM, *SUITE, "split=100,dummy=0.5,delay=exp:5ms"])
def test_what_every_change_keeps(flows, text):
    before = packets_of(flows)
    after = parse(text)(before, rng())
    assert (np.diff(after.flow) >= 0).all() and (after.gaps_ns() >= 0).all()
    assert set(after.flow) == set(before.flow) or text.startswith("loss")
    header = after.fields["ip_len"].astype(int) - after.fields["payload_len"]
    assert (header == 28).all()
    most = max(PAYLOAD_MAX, int(before.payload_len.max()))
    assert (after.payload_len >= 0).all() and after.payload_len.max() <= most
    assert (after.fields["raw_len"] == np.minimum(after.fields["ip_len"], RAW_LEN)).all()
    raw = after.raw.astype(int)
    assert (raw[:, 2] * 256 + raw[:, 3] == after.fields["ip_len"]).all()
    assert (raw[:, 24] * 256 + raw[:, 25] == after.payload_len + 8).all()
    beyond = np.arange(RAW_LEN) >= after.fields["raw_len"][:, None]
    assert not after.raw[beyond].any()
    again = parse(text)(before, rng())
    assert again.fields.tobytes() == after.fields.tobytes()
    assert again.time_ns.tobytes() == after.time_ns.tobytes()


@pytest.mark.parametrize("text", EVERY_FORM)
def test_views_of_shaped_rows_can_be_computed(flows, text):
    batch, mask = flows
    shaped = Shaper(parse(text), 5, 1.0, 1, mask)(batch)
    assert shaped.packets.shape == (len(batch), 5)
    assert np.isfinite(compute(VIEWS["stats"], shaped, 5)).all()
    assert np.isfinite(compute(VIEWS["seq"], shaped, 5)).all()


def test_what_programs_sent_is_all_there_after_a_split(flows):
    before = packets_of(flows)
    after = changes.split(before, rng(), 100)
    for flow in np.unique(before.flow):
        sums = [p.payload_len[p.flow == flow].sum() for p in (before, after)]
        assert sums[0] == sums[1]
    assert after.payload_len.max() == 100
    assert len(after) == (-(-before.payload_len // 100)).sum()


def test_merging_undoes_a_split(flows):
    before = packets_of(flows)
    halves = changes.split(before, rng(), -(-int(before.payload_len.max()) // 2))
    after = changes.merge(halves, rng())
    assert after.payload_len.tolist() == before.payload_len.tolist()
    assert after.time_ns.tolist() == before.time_ns.tolist()


def test_pads_by_hand(flows):
    packets = packets_of(flows).take(np.arange(3))
    packets = packets.with_payload(np.array([0, 65, 1000]), rng())
    by_text = {"pad=bucket:64": [0, 128, 1024], "pad=mtu": [0, 1460, 1460]}
    by_text["pad=exp"] = [0, 128, 1024]
    for text, expected in by_text.items():
        assert parse(text)(packets, rng()).payload_len.tolist() == expected


def test_padding_looks_like_the_payload_beside_it(flows):
    """0xff under a mask, random bytes without one: never zeros that give padding away."""
    _, mask = flows
    padded = parse("pad=mtu")(packets_of(flows), rng())
    payload = padded.raw[:, 100:]
    assert (payload == 0xFF).all() if mask != "none" else (payload != 0).mean() > 0.4


def test_times_by_hand(flows):
    packets = packets_of(flows).take(np.arange(6))
    assert packets.gaps_ns().tolist() == [0] + [1_000_000] * 5
    assert parse("delay=const:2ms")(packets, rng()).gaps_ns().tolist() == [0] + [3_000_000] * 5
    assert parse("iat=const:20ms")(packets, rng()).gaps_ns().tolist() == [0] + [20_000_000] * 5
    # a link on which each packet takes longer than the gap: they leave one after another
    slow = parse("rate=8")(packets, rng())
    assert slow.gaps_ns()[1:] == pytest.approx(packets.fields["ip_len"][1:] * 1e6, abs=5)


def test_prepended_dummies_come_first_and_the_rest_later(flows):
    before = packets_of(flows).take(np.arange(6))
    after = parse("prepend=4")(before, rng())
    assert len(after) == 10
    assert after.time_ns[:5].tolist() == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000]
    assert after.payload_len[4:].tolist() == before.payload_len.tolist()


def test_rows_end_at_the_first_gap_above_the_waiting_time(flows):
    batch, mask = flows
    shaped = Shaper(parse("iat=const:1500ms"), 5, 1.0, 1, mask)(batch)
    assert (shaped.packets["present"].sum(axis=1) == 1).all()


def test_overhead_by_hand(flows):
    batch, mask = flows
    shaper = Shaper(parse("delay=const:1ms"), 12, 1.0, 1, mask)
    shaper(batch)
    assert shaper.overhead() == pytest.approx({"bytes": 0, "time": 1, "packets": 0}, abs=1e-6)


def test_other_strengths_are_not_the_same_ones():
    assert parse("pad=bucket:128,delay=exp:50ms").others == (
        "pad=bucket:64,delay=exp:25000.000us",
        "pad=bucket:256,delay=exp:100000.000us",
    )
    for text in (*EVERY_FORM, *SUITE):
        for other in parse(text).others:
            parse(other)
            assert other != text or text == "merge"


@pytest.mark.parametrize(
    "text", ["", "pad", "pad=bucket:0", "pad=bucket:x", "dummy=2", "delay=exp:5", "split=-1", "x=1"]
)
def test_what_is_no_shaping_is_refused_with_the_forms(text):
    with pytest.raises(UsageError, match=r"no shaping .* write one of pad=bucket:N"):
        parse(text)

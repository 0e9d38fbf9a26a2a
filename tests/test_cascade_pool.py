"""Rows on their way through the stages: what comes out is what was put in."""

import numpy as np

from etcpipe.batch import FlowBatch, rows_of
from etcpipe.cascade.pool import ROWS_LEAST, RowPool


def flows_at_random(n: int, seed: int) -> FlowBatch:
    rng = np.random.default_rng(seed)
    flows = rows_of(n, 3, 20)
    for column in vars(flows).values():
        column.view(np.uint8)[:] = rng.integers(0, 256, column.view(np.uint8).shape)
    return flows


def same(one: FlowBatch, other: FlowBatch) -> bool:
    return all(
        column.dtype == vars(other)[name].dtype and column.tobytes() == vars(other)[name].tobytes()
        for name, column in vars(one).items()
    )


def test_rows_come_out_as_they_were_put_in_while_others_come_and_go():
    pool = RowPool(flows_at_random(1, 0))
    kept = {}
    for seed in range(1, 9):
        flows = flows_at_random(ROWS_LEAST // 2 + seed, seed)
        kept[seed] = flows, pool.put(flows, seed)
        if seed % 2 == 0:
            _, places = kept.pop(seed - 1)
            pool.free(places)
    assert len(kept) == 4
    everywhere = np.concatenate([places for _, places in kept.values()])
    assert len(set(everywhere.tolist())) == len(everywhere)
    for seed, (flows, places) in kept.items():
        assert same(pool.flows(places), flows)
        assert same(pool.flows(places[::-3]), flows.select(np.arange(len(flows))[::-3]))
        assert pool.column("flow_id", places).tolist() == flows.flow_id.tolist()
        assert set(pool.depth[places].tolist()) == {seed}


def test_what_is_put_in_is_copied():
    flows = flows_at_random(3, 1)
    pool = RowPool(flows)
    places = pool.put(flows, 0)
    flows.raw[:] = 0
    assert pool.flows(places).raw.any()


def test_no_more_places_than_rows_need():
    pool = RowPool(flows_at_random(1, 0))
    for seed in range(20):
        places = pool.put(flows_at_random(ROWS_LEAST, seed), 0)
        pool.free(places)
    assert len(pool.depth) == ROWS_LEAST

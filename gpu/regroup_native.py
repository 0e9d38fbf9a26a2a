"""Regrouping in C (etcpipe/native/regroup*.c), which gets arrays by their addresses."""

import numpy as np

from etcpipe import _native
from etcpipe.batch import FlowBatch, PacketBatch, concatenate, rows_of
from etcpipe.columns import DTYPES, address_of, addresses_of
from etcpipe.gpu.mask import MASKS
from etcpipe.gpu.regroup import COUNTERS, EXPIRE_MAX, GRACE_NS, EarlyRows, Settings

NO_DEPTH = np.empty(0, np.uint8)  # closed rows have none
NOW_NEWEST = (1 << 64) - 1  # of etcpipe/native/regroup.h: take the time of the newest packet


class Backend:
    """See etcpipe.gpu.regroup."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._regroup = _native.regroup_new(
            settings.first_n,
            settings.raw_len,
            settings.slots,
            settings.max_rows,
            settings.wait_ns,
            GRACE_NS,
            EXPIRE_MAX,
            MASKS.index(settings.mask),
            settings.parse,
            sum(1 << depth - 1 for depth in settings.depths),
            settings.threads,
        )
        self._nothing = self._rows(0)
        self._no_early = EarlyRows(np.empty(0, np.uint8), self._nothing)
        self._early: list[EarlyRows] = []

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        closed = _native.regroup_add(
            self._regroup,
            batch.memory,
            [getattr(batch, name) for name in DTYPES],
            batch.link_type,
            NOW_NEWEST if now_ns is None else now_ns,
        )
        if self._settings.depths:
            self._copy_early()
        return self._take(closed)

    def expire(self, now_ns: int) -> FlowBatch:
        return self._take(_native.regroup_expire(self._regroup, now_ns))

    def flush(self) -> FlowBatch:
        return self._take(_native.regroup_flush(self._regroup))

    def take_early(self) -> EarlyRows:
        early, self._early = self._early or [self._no_early], []
        if len(early) == 1:
            return early[0]
        depths = np.concatenate([rows.depth for rows in early])
        return EarlyRows(depths, concatenate([rows.flows for rows in early]))

    def leave(self, flow_id: np.ndarray) -> None:
        _native.regroup_leave(self._regroup, address_of(flow_id), len(flow_id))

    @property
    def counters(self) -> dict[str, int]:
        values, _ = _native.regroup_counters(self._regroup)
        return dict(zip(COUNTERS, values, strict=True))

    @property
    def pending(self) -> int:
        return _native.regroup_counters(self._regroup)[1]

    def _take(self, flows: int) -> FlowBatch:
        if not flows:
            return self._nothing
        rows = self._rows(flows)
        addresses = addresses_of([*vars(rows).values(), NO_DEPTH])
        _native.regroup_take(self._regroup, address_of(addresses))
        return rows

    def _copy_early(self) -> None:
        """Copy early rows before closed ones are moved out: they may be of the same flow."""
        flows = _native.regroup_early(self._regroup)
        if not flows:
            return
        rows = EarlyRows(np.empty(flows, np.uint8), self._rows(flows))
        addresses = addresses_of([*vars(rows.flows).values(), rows.depth])
        _native.regroup_take_early(self._regroup, address_of(addresses))
        self._early.append(rows)

    def _rows(self, flows: int) -> FlowBatch:
        """Return room for rows, in the order of struct flow_columns in native/regroup.h."""
        return rows_of(flows, self._settings.first_n, self._settings.raw_len, np.empty)

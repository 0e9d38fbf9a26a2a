"""Flows of packets that have no id, on a GPU: the host's side of gpu/flow_sort.cu."""

import secrets
from dataclasses import asdict

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.gpu import regroup_gpu
from etcpipe.gpu.cuda import Call, Device, DeviceArray, Record, launch
from etcpipe.gpu.cuda_source import RECORDS
from etcpipe.gpu.flow_sort import COUNTERS, SWEEP_SLACK_NS, FlowRules, SweepClock
from etcpipe.gpu.regroup import Settings
from etcpipe.gpu.regroup_tables_gpu import Batch


class Backend(regroup_gpu.Backend):
    """See etcpipe.gpu.flow_sort; arguments and errors as of etcpipe.gpu.regroup_gpu."""

    def __init__(
        self,
        settings: Settings,
        rules: FlowRules,
        device: Device | None = None,
        scatter_blocks: int | None = None,
    ):
        super().__init__(settings, device, scatter_blocks)
        self._sweep = SweepClock(rules)
        places = 1 << (2 * rules.flows_max - 1).bit_length()
        # two tables: a sweep builds the next one from the flows that stay
        self._flows = [DeviceArray(self._device, places, RECORDS["sorted_flow"]) for _ in range(2)]
        self._used = [DeviceArray(self._device, places, np.uint32) for _ in range(2)]
        self._sort_state = Record(self._device, "flow_sort_state")
        self._sort = Record(
            self._device,
            "flow_sort_table",
            flows=self._flows[0],
            used=self._used[0],
            state=self._sort_state.address,
            seed=secrets.randbits(64),
            mask=places - 1,
            first_n=settings.first_n,
            **asdict(rules),
        )
        self._sweep_record = Record(self._device, "flow_sweep")

    def add(self, batch: PacketBatch, now_ns: int | None) -> FlowBatch:
        flows = super().add(batch, now_ns)
        if self._sweep.is_due(self._clock_ns):
            self._forget_silent()
        return flows

    @property
    def counters(self) -> dict[str, int]:
        values = self._sort_state.read()["counters"].tolist()
        return super().counters | dict(zip(COUNTERS, values, strict=True))

    def _tracking(self, room: Batch) -> list[Call]:
        return [("flow_sort", 1, self._sort, room.record)]

    def _flow_ids(self, turn: regroup_gpu.Turn, start: int, n: int) -> np.ndarray:
        return turn.room.flow_ids(n)

    def _forget_silent(self) -> None:
        self._sweep_record.write(
            flows=self._flows[1],
            used=self._used[1],
            now_ns=max(0, self._clock_ns - SWEEP_SLACK_NS),
        )
        launch(self._device, "flow_sort_sweep", self._scan_blocks, self._sort, self._sweep_record)
        self._flows.reverse()
        self._used.reverse()
        self._sort.write(flows=self._flows[0], used=self._used[0])

"""A tap at work: the pipeline between the kernel's ring and its verdict map."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import inf
from os import PathLike
from time import monotonic
from typing import Any

import numpy as np

from etcpipe.answering import Answering
from etcpipe.batch import PacketBatch
from etcpipe.cascade.beside import SureRows
from etcpipe.cascade.gathered import KernelCascade
from etcpipe.cascade.lanes import Lanes
from etcpipe.cascade.stage0 import KernelStage
from etcpipe.errors import DataplaneError, UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.kernel import first_packets, tap
from etcpipe.kernel import netns as namespaces
from etcpipe.kernel.features_source import FeatureRows, FeatureSource
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.guard import no_interrupt
from etcpipe.live.source import TapSource, open_ring
from etcpipe.model import Model
from etcpipe.model_choice import AnyModel, regroup_for
from etcpipe.policy.change import change
from etcpipe.policy.live import Acts
from etcpipe.policy.rules import Policy, verdict_words
from etcpipe.verdict import EVENT_EARLY, VerdictBatch

# How often the loop looks whether the device is still there, in seconds.
CHECK_EVERY_S = 0.5


class Live:
    """A tap on a device, with verdicts as they are made; see attach()."""

    def __init__(
        self,
        device: str,
        model: AnyModel | KernelCascade,
        settings: tap.TapSettings,
        *,
        netns: str | None,
        keep: bool,
        wait_s: float | None,
        duration_s: float | None,
        compute: str = "cpu",
        policy: Policy | None = None,
        filter: str | None = None,
        shadow: Model | None = None,
        stage0: KernelStage | None = None,
    ):
        self.device = device
        self.model = model
        self.compute = compute
        self._acts = Acts(policy, model)
        self._netns = netns
        opened = Forward if settings.forward else tap.Tap
        self._tap = opened(device, settings, keep=keep)
        self._raw_len = max(model.raw_len, shadow.raw_len if shadow else 0)
        self._regroup: Any = self._regrouping(wait_s, model)
        self._answering = Answering(model, settings, self._raw_len, compute, stage0)
        if shadow:
            self.set_shadow(shadow)
        self._filter = filter
        self._duration_s = duration_s
        self._checks: list[Callable[[], object]] = []
        self._watchers: list[Callable[[PacketBatch], object]] = []
        self._stack = ExitStack()
        self._stopping = False
        self._end = inf
        self._check_at = 0.0

    def _regrouping(self, wait_s: float | None, model: AnyModel | KernelCascade) -> Any:
        """Return what makes rows; None where the kernel gathers features, then FeatureRows do."""
        is_one = isinstance(model, Model)
        if isinstance(model, KernelCascade) or (is_one and self.capture == "features"):
            return None
        lanes = Lanes(partial(self._rows_for, wait_s), model, self._tap.flows_begun)
        return lanes.newest if is_one and lanes.newest.is_ahead else lanes

    def _rows_for(self, wait_s: float | None, model: AnyModel) -> Regroup:
        """Return what makes rows for a model."""
        settings = self._tap.settings
        return regroup_for(
            model,
            settings.first_n,
            wait_s,
            settings.parse,
            self.compute,
            threads=settings.queues,
            raw_len=max(model.raw_len, self._raw_len),
        )

    @property
    def mode(self) -> str:
        """The hook that tracks: "tc" or "xdp"."""
        return self._tap.mode

    @property
    def mode_reason(self) -> str:
        """Why that hook."""
        return self._tap.mode_reason

    @property
    def capture(self) -> str:
        """How packets come from the kernel, see attach()."""
        return self._tap.settings.capture

    @property
    def loader(self) -> str:
        """What loaded the programs: "libbpf" or "bcc"."""
        return self._tap.loader

    def __enter__(self) -> "Live":
        try:
            with no_interrupt():  # between two of the steps it would leave the first one's work
                self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        with ExitStack() as stack:
            if self._netns:
                stack.enter_context(namespaces.enter(self._netns))
            stack.callback(self._answering.close)
            stack.enter_context(self._tap)
            self._ring: Any = open_ring(self._tap)
            stack.enter_context(self._ring)
            if isinstance(self._ring, FeatureSource):  # rows come, and no packets
                self._regroup = FeatureRows(self._ring)
            if (settings := self._tap.settings).judges_beside:
                told = self._tap.tree_records_fd, settings.tree_records_bytes
                rows = SureRows(*told, settings.feature_plan)
                self._answering.hear(stack.enter_context(rows))
            self._set_tree()
            if self.policy:
                self._tap.set_actions(self.policy.actions())
            self._tap.set_filter(self._filter)
            self._tap.start()
            self._sweeper = stack.enter_context(self._tap.sweeper())
            self._stack = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def stop(self) -> None:
        """End the iteration after the current batch; flows on the way still get a verdict."""
        self._stopping = True

    def at_checks(self, call: Callable[[], object]) -> None:
        """Call this twice a second from the iteration, between two batches of packets."""
        self._checks.append(call)

    def at_packets(self, call: Callable[[PacketBatch], object]) -> None:
        """Call this with each batch of packets before it is regrouped.

        They are the first of flows that have no final verdict yet, and some that were on their way.

        Raises:
            UsageError: the kernel gathers features, no packets come.
        """
        if isinstance(self._ring, FeatureSource):
            raise UsageError("no packets come with --capture features: attach without it")
        self._watchers.append(call)

    def set_filter(self, expression: str | None) -> None:
        """Look only at packets that a libpcap expression wants, from now on; None: at all.

        Raises:
            UsageError: the expression has a fault.
            UnsupportedError, DataplaneError: it cannot be translated, or the kernel refused.
        """
        self._tap.set_filter(expression)
        self._filter = expression

    @property
    def policy(self) -> Policy | None:
        """What verdicts do now."""
        return self._acts.policy

    def set_policy(self, policy: Policy | None) -> None:
        """Let verdicts act by another policy from now on; None: not at all.

        Flows that were judged keep what a rule does to them that both policies have, and are
        left alone else. Call it from at_checks() alone: verdicts of a batch act by one policy.

        Raises:
            UsageError: no policy was there at the start, so nothing acts; or it does not fit.
        """
        if policy is not None:
            if not self._tap.settings.policy:
                raise UsageError("attached without a policy: detach first, then attach with one")
            if self._tap.settings.forward and self._tap.mode == "xdp":
                policy.check_xdp_wire()
        before = self._acts.policy
        self._acts.change(policy, self.model)
        if self._tap.settings.policy:
            change(self._tap.verdicts, before, policy, self._tap.set_actions)
        self._set_tree()

    def _set_tree(self) -> None:
        """Say how the kernel judges flows, if it does: its verdicts act by the policy too."""
        if stage := self._answering.stage0:
            self._tap.set_tree(stage.tree(self._tap.settings.feature_plan, self._acts.decide))

    def load_model(self, file: str | PathLike[str]) -> AnyModel:
        """Return what set_model() takes of a file, ready to answer; from any thread.

        Where a cascade answers, it may be a cascade's file, or a model's that is its only stage;
        else it is a model.

        Raises:
            UsageError: a cascade in the place of one model.
            ModelError: as etcpipe.model.load().
        """
        return self._answering.load(file)

    def set_model(self, model: AnyModel) -> None:
        """Let another model answer from now on; flows that are on the way miss nothing.

        Call it from at_checks() alone, as what follows.

        Raises:
            UsageError: it is not as load_model() gives it, or does not fit what was attached.
        """
        self._answering.check(model)
        self._acts.check(model)
        self._answering.replace(model)
        self._serve(model)

    def roll_back_model(self) -> None:
        """Let the model answer again that did before set_model().

        Raises:
            UsageError: there was none.
        """
        previous = self._answering.previous
        if previous:
            self._acts.check(previous)
        self._serve(self._answering.roll_back())

    def _serve(self, model: AnyModel) -> None:
        self._acts.change(self.policy, model)
        self.model = model
        self._set_tree()

    def set_shadow(self, model: Model) -> None:
        """Ask another model too, whose answers only shadow_report() tells.

        Raises:
            UsageError: as set_model(); its classes may be others.
        """
        self._answering.set_shadow(model)

    def shadow_report(self) -> dict[str, Any] | None:
        """Return how the shadow's answers compare, see Shadow.report(); None without one."""
        return self._answering.shadow_report()

    def report_flows(self, take: Callable[[np.ndarray], None]) -> None:
        """Call `take` with FLOW_RECORDs of flows as they end, from a thread of its own.

        Flows that go on for long are reported each active timeout, with reason "active". An
        error that `take` raises ends the iteration.
        """
        self._sweeper.on_records = take

    def watch_table(
        self, take: Callable[[np.ndarray, np.ndarray], None], end_round: Callable[[], None]
    ) -> None:
        """Call `take` with slices of the flow table, FLOW_KEYs and FLOW_STATEs, and `end_round`
        once all was seen, from a thread of its own and again and again."""
        self._sweeper.on_slice, self._sweeper.on_round = take, end_round

    def finish_flows(self) -> None:
        """Report the flows that are left, and end reporting."""
        self._sweeper.stop()
        self._sweeper.rest()

    def counters(self) -> dict[str, int]:
        """Return packets by reason: the tap's, the socket's (RING_*) and regrouping's.

        Of a cascade also flows by what became of them (CASCADE_*).
        """
        ring = {f"RING_{name.upper()}": n for name, n in self._ring.statistics().items()}
        counters = {**self._sweeper.counters, **self._tap.counters()}
        return {**counters, **ring, **self._regroup.counters, **self._answering.counters}

    def program_runs(self) -> dict[str, dict[str, int]]:
        """Return {runs, ns} by program, where the kernel counts them (docs/operations.md)."""
        return self._tap.program_runs()

    def lost(self) -> dict[str, int]:
        """Return first-N packets that never reached the model, by reason, zeros left out."""
        return first_packets.lost(self.counters())

    def __iter__(self) -> Iterator[VerdictBatch]:
        for verdicts in self._judged():
            self._publish(verdicts)
            yield verdicts

    def _judged(self) -> Iterator[VerdictBatch]:
        self._end = monotonic() + self._duration_s if self._duration_s else inf
        source = TapSource(self._tap, self._ring, self._goes_on, self._show)
        return self._answering.verdicts(source, self._regroup)

    def _goes_on(self) -> bool:
        """Return whether more packets are wanted; twice a second, look after what is attached."""
        now = monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            for call in self._checks:
                call()
            if self._sweeper.failure:
                raise self._sweeper.failure
            if not self._tap.alive():
                raise DataplaneError(f"{self.device}: the device is gone; detached")
        return not self._stopping and now < self._end

    def _show(self, batch: PacketBatch) -> None:
        for call in self._watchers:
            call(batch)

    def _publish(self, verdicts: VerdictBatch) -> None:
        """Write each verdict where the kernel programs find it by the flow's slot.

        A final one also ends the copying of its flow's packets, so it is written even where it
        says nothing else: what came of them would be late, the flow's row is closed; but a
        shadow beside a cascade waits for the whole of it.
        """
        flow_id, label = verdicts.flows.flow_id, verdicts.label
        action = self._acts.actions(verdicts)
        final = (verdicts.event != EVENT_EARLY) & ~self._answering.need_packets(flow_id)
        told = (label >= 0) | (action > 0) | final
        words = verdict_words(flow_id, label, action, final)
        slots = (flow_id % np.uint64(len(self._tap.verdicts))).astype(np.int64)
        self._tap.verdicts[slots[told]] = words[told]

"""The policy of a running attach: what verdicts do, and what models must tell for that."""

import numpy as np

from etcpipe.cascade.gathered import KernelCascade
from etcpipe.model_choice import AnyModel
from etcpipe.policy.rules import Decider, Policy
from etcpipe.shares import Shares
from etcpipe.verdict import VerdictBatch


class Acts:
    """What verdicts do to their flows; all methods are for the thread that publishes them.

    Attributes:
        policy: None: nothing.
        decide: of the policy, for the labels of the model that answers.
    """

    policy: Policy | None
    decide: Decider | None

    def __init__(self, policy: Policy | None, model: AnyModel | KernelCascade) -> None:
        self._shares: Shares | None = None
        self._by_labels: dict[tuple[str, ...], Decider | None] = {}
        self.policy = None
        self.change(policy, model)

    def change(self, policy: Policy | None, model: AnyModel | KernelCascade) -> None:
        """Act by another policy, or on another model's verdicts, from now on.

        Raises:
            UsageError: they do not fit; all is as before.
        """
        decide = policy.decider(model.labels) if policy else None
        adds_up = decide is not None and decide.adds_up
        if adds_up and self._shares is None:
            self._shares = Shares(len(model.classes))
        for one in model.stage_models:
            one.shares = self._shares if adds_up else None
        if policy is not self.policy:
            self._by_labels.clear()
        self._by_labels[model.labels] = decide  # a model that was replaced may still say something
        self.policy, self.decide = policy, decide

    def check(self, model: AnyModel) -> None:
        """Raise UsageError if the policy does not fit a model's labels."""
        if self.policy:
            self.policy.decider(model.labels)

    def actions(self, verdicts: VerdictBatch) -> np.ndarray:
        """Return (flows,) uint8, the action of each verdict, 0 for none."""
        decide = self._by_labels.get(verdicts.classes, self.decide)
        if decide is None:
            return np.zeros(len(verdicts), np.uint8)
        shares = None
        if decide.adds_up and self._shares is not None:
            shares = self._shares.of(verdicts.flows.flow_id)
        return decide(verdicts.label, verdicts.probability, shares)

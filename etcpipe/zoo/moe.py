"""A dense layer of many experts, of which each token asks few.

Every token goes through a shared expert and through the k routed ones that the router likes
best. Selection is by affinity + bias, weight by affinity alone; the bias has no gradient and
moves against the load, so that no expert is left without tokens (Wang et al., Auxiliary-Loss-
Free Load Balancing, arXiv 2408.15664, as DeepSeek-V3 does).

Two ways to bring tokens to experts, with the same weights:
    loop     expert by expert, whatever tokens it has: nothing is dropped. For training, and
             fastest on a CPU.
    static   room for a fixed number of tokens an expert and flow: all shapes are known, as
             TensorRT wants them. Tokens beyond the room keep the shared expert's answer only.
             Room is by flow, so a flow's answer does not depend on others in its batch.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from etcpipe.zoo.layers import SwiGlu

CAPACITY = 2.0  # room in static dispatch, in units of an even load
BIAS_STEP = 1e-3
# Part of the training in which the bias moves; then the router settles.
BIAS_MOVES = 0.8
SEQUENCE_LOSS, ROUTER_Z_LOSS, SWITCH_LOSS = 1e-4, 1e-3, 1e-2
# An expert with less than this share of an even load is dead.
DEAD = 0.1
KEPT = 0.99  # of the running average of loads, a step


class MixtureOfExperts(nn.Module):
    """A shared expert and some routed ones, all SwiGLU."""

    bias: torch.Tensor
    load: torch.Tensor

    def __init__(
        self, width: int, hidden: int, experts: int, chosen: int, shared: int, balance: str = "bias"
    ) -> None:
        """Make the experts.

        Args:
            hidden: units of a routed expert.
            chosen: routed experts that a token asks.
            shared: units of the shared expert.
            balance: "bias", or "aux" for the loss of Switch Transformers.
        """
        super().__init__()
        self.experts, self.chosen, self.balance = experts, chosen, balance
        self.dispatch = "loop"
        self.router = nn.Linear(width, experts, bias=False)
        self.gate = nn.Parameter(_uniform(experts, width, hidden))
        self.up = nn.Parameter(_uniform(experts, width, hidden))
        self.down = nn.Parameter(_uniform(experts, hidden, width))
        self.shared = SwiGlu(width, shared)
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.full((experts,), 1 / experts))
        self.dropped = self.routed = 0
        self._counts = torch.zeros(experts)
        self._loss = torch.zeros(())

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Return (flows, tokens, width) of the same.

        Args:
            shown: (flows, tokens) bool, tokens that count; the others ask no routed expert.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            logits = functional.linear(tokens.float(), self.router.weight.float())
            affinity = logits.sigmoid()
            _, expert = (affinity + self.bias).topk(self.chosen, dim=-1)
            weight = affinity.gather(-1, expert)
            weight = weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-9)
        if self.training:
            self._watch(logits[shown], affinity[shown], expert[shown])
        ask = self._loop if self.dispatch == "loop" else self._static
        return self.shared(tokens, shown) + ask(tokens, shown, expert, weight).to(tokens.dtype)

    def _loop(
        self, tokens: torch.Tensor, shown: torch.Tensor, expert: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        flat = tokens.flatten(0, 1)
        # One slot a token and choice; those of tokens that do not count are nobody's.
        asked = torch.where(shown[..., None], expert, self.experts).flatten()
        # A trace keeps all experts, whoever has tokens in it.
        mine = [(asked == i).nonzero().squeeze(-1) for i in range(self.experts)]
        slot = torch.cat(mine)
        if torch.jit.is_tracing():
            rows = [flat[one // self.chosen] for one in mine]
        else:  # at once, or the way back would add up all rows again for each expert
            taken = flat.index_select(0, slot // self.chosen)
            rows = list(taken.split([len(one) for one in mine]))
        answer = torch.cat([self._one(i, some) for i, some in enumerate(rows)])
        place = torch.zeros_like(asked).scatter(0, slot, torch.arange(slot.shape[0]).to(slot))
        counts = (weight * shown[..., None]).flatten()[:, None]
        answers = answer.index_select(0, place) * counts
        return answers.reshape(*expert.shape, -1).sum(dim=2)

    def _one(self, expert: int, rows: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(rows @ self.gate[expert]) * (rows @ self.up[expert])
        return hidden @ self.down[expert]

    def _static(
        self, tokens: torch.Tensor, shown: torch.Tensor, expert: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        count, width = tokens.shape[1:]
        slots, room = count * self.chosen, capacity(count, self.experts, self.chosen)
        # Tokens that do not count ask expert number `experts`, which has no room.
        asked = torch.where(shown[..., None], expert, self.experts).flatten(1)
        is_for = (asked[..., None] == torch.arange(self.experts, device=asked.device)).float()
        place = (is_for.cumsum(dim=1) * is_for).sum(dim=-1).long() - 1
        fits = (place >= 0) & (place < room)
        self._count(asked, fits)
        # Slots sorted by expert, in order: a topk of numbers that float32 holds exactly.
        key = asked * slots + torch.arange(slots, device=asked.device)
        order = (-key.float()).topk(slots, dim=1).indices
        totals = is_for.sum(dim=1).long()
        first = totals.cumsum(dim=1) - totals
        taken = (first[..., None] + torch.arange(room, device=asked.device)).clamp(max=slots - 1)
        token = order.gather(1, taken.flatten(1)) // self.chosen
        rows = tokens.gather(1, token[..., None].expand(-1, -1, width))
        said = self._all_experts(rows, room)
        slot = asked.clamp(max=self.experts - 1) * room + place.clamp(0, room - 1)
        answers = said.gather(1, slot[..., None].expand(-1, -1, width))
        answers = answers * (weight.flatten(1) * fits)[..., None]
        return answers.reshape(-1, count, self.chosen, width).sum(dim=2)

    def _all_experts(self, rows: torch.Tensor, room: int) -> torch.Tensor:
        """Return (flows, experts x room, width) of the same, each expert its own rows."""
        width = rows.shape[-1]
        by_expert = rows.reshape(-1, self.experts, room, width).transpose(0, 1)
        flat = by_expert.reshape(self.experts, -1, width)
        hidden = functional.silu(flat @ self.gate) * (flat @ self.up)
        said = (hidden @ self.down).reshape(self.experts, -1, room, width)
        return said.transpose(0, 1).reshape(-1, self.experts * room, width)

    def _count(self, asked: torch.Tensor, fits: torch.Tensor) -> None:
        if not torch.jit.is_tracing():
            routed = int((asked < self.experts).sum())
            self.routed += routed
            self.dropped += routed - int(fits.sum())

    def _watch(self, logits: torch.Tensor, affinity: torch.Tensor, expert: torch.Tensor) -> None:
        """Note the loads of a step, and what the router is to pay for them."""
        counts = torch.bincount(expert.detach().flatten().cpu(), minlength=self.experts).float()
        self._counts = counts / counts.sum().clamp(min=1)
        share = (affinity / affinity.sum(dim=-1, keepdim=True)).mean(dim=0)
        uneven = self.experts * (self._counts.to(share.device) * share).sum()
        weight = SEQUENCE_LOSS if self.balance == "bias" else SWITCH_LOSS
        z = logits.logsumexp(dim=-1).square().mean()
        self._loss = weight * uneven + ROUTER_Z_LOSS * z

    def extra_loss(self) -> torch.Tensor:
        """Return the router's part of the loss of the last step."""
        return self._loss

    def after_step(self, progress: float) -> None:
        """Move the bias against the loads of the step.

        Args:
            progress: of the training, 0 to 1.
        """
        counts = self._counts.to(self.load.device)
        self.load.mul_(KEPT).add_(counts, alpha=1 - KEPT)
        if self.balance == "bias" and progress < BIAS_MOVES:
            self.bias.add_((1 / self.experts - counts).sign(), alpha=BIAS_STEP)

    def facts(self) -> dict[str, Any]:
        """Return how evenly the experts were asked towards the end of the training."""
        even = self.load * self.experts
        share = self.load / self.load.sum()
        entropy = -(share * share.clamp(min=1e-9).log()).sum() / math.log(self.experts)
        return {
            "load": [round(value, 4) for value in share.tolist()],
            "variation": round(float(even.std(correction=0)), 4),
            "entropy": round(float(entropy), 4),
            "dead": int((even < DEAD).sum()),
        }


def capacity(tokens: int, experts: int, chosen: int) -> int:
    """Return the tokens of one flow that an expert has room for in static dispatch."""
    return min(math.ceil(CAPACITY * tokens * chosen / experts), tokens)


def _uniform(experts: int, inputs: int, outputs: int) -> torch.Tensor:
    """Return weights (experts, inputs, outputs) as nn.Linear begins with."""
    return torch.empty(experts, inputs, outputs).uniform_(-(inputs**-0.5), inputs**-0.5)

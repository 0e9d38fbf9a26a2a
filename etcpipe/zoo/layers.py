"""Layers that several networks share."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

FAR = -1e4  # instead of infinity, which half precision does not have


def scaled(packets: torch.Tensor) -> torch.Tensor:
    """Return bytes as float32 from 0 to 1."""
    return packets.float() * (1 / 255)


def has_bytes(packets: torch.Tensor) -> torch.Tensor:
    """Return (flows, packets) bool, where a packet came: its first byte has an IP version."""
    return packets[..., 0] != 0


def perceptron(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them, none behind the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers[: -2 if dropout else -1])


class MultiHead(nn.Module):
    """Attention of tokens to every one, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, tokens, width) of the same.

        Args:
            shown: (flows, tokens) bool, tokens that may be attended to; None for all.
        """
        flows, count, _ = tokens.shape
        # Two-dimensional and one by one: engines add the bias on the way, and split nothing.
        flat = tokens.flatten(0, 1)
        queries, keys, values = (
            functional.linear(flat, weight, bias)
            .reshape(flows, count, self.heads, -1)
            .transpose(1, 2)
            for weight, bias in self._inputs()
        )
        mixed = self._weights(queries @ keys.transpose(-1, -2), shown) @ values
        return self.output(mixed.transpose(1, 2).reshape(flows * count, -1)).reshape(tokens.shape)

    def of_first(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, 1, width), what forward() has for each flow's first token.

        Its one question is taken to the tokens, and its answer to a value, so that no other
        token needs keys and values: what they add to all scores alike cancels out.
        """
        (to_query, bias), (to_key, _), (to_value, value_bias) = self._inputs()
        query = functional.linear(tokens[:, 0], to_query, bias).unflatten(1, (self.heads, -1))
        question = (query.transpose(0, 1) @ self._by_head(to_key)).transpose(0, 1)
        weights = self._weights((question @ tokens.transpose(1, 2))[:, :, None], shown)
        mixed = (weights.squeeze(2) @ tokens).transpose(0, 1)
        values = (mixed @ self._by_head(to_value).transpose(1, 2)).transpose(0, 1)
        return self.output(values.flatten(1) + value_bias)[:, None]

    def _inputs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return weight and bias of queries, keys and values."""
        return list(zip(self.inputs.weight.chunk(3), self.inputs.bias.chunk(3), strict=True))

    def _by_head(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(self.heads, -1, weight.shape[1])

    def _weights(self, scores: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
        """Return weights of (flows, heads, asking, tokens) scores, that sum up to 1."""
        scores = scores * self.scale
        if shown is not None:
            scores = scores + FAR * (~shown)[:, None, None, :].to(scores.dtype)
        return scores.softmax(dim=-1)


class SwiGlu(nn.Module):
    """A dense part with a gate. Source: Shazeer, GLU Variants, arXiv 2002.05202."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, tokens, width) of the same."""
        return self.down(functional.silu(self.gate(tokens)) * self.up(tokens))


class Block(nn.Module):
    """A layer of a transformer: normalised before attention and before the dense part."""

    def __init__(self, width: int, heads: int, dense: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = MultiHead(width, heads)
        self.dense = dense

    def forward(self, tokens: torch.Tensor, shown: torch.Tensor | None = None) -> torch.Tensor:
        """Return (flows, tokens, width) of the same; see MultiHead."""
        tokens = tokens + self.attention(self.norms[0](tokens), shown)
        return tokens + self.dense(self.norms[1](tokens), shown)

    def of_first(self, tokens: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Return (flows, 1, width), what forward() has for each flow's first token."""
        first = tokens[:, :1] + self.attention.of_first(self.norms[0](tokens), shown)
        return first + self.dense(self.norms[1](first), shown[:, :1])

"""Layers that several networks share."""

from itertools import pairwise

import torch
from torch import nn


def scaled(packets: torch.Tensor) -> torch.Tensor:
    """Return bytes as float32 from 0 to 1."""
    return packets.float() * (1 / 255)


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them, none behind the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

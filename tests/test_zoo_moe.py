"""Experts: who is asked, who is not, and that a flow's answer is its own."""

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch
from torch import nn

from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.tokens import NO_BYTE, TOKENS
from etcpipe.model_file import Description
from etcpipe.training.network_export import to_onnx
from etcpipe.zoo import ARCHS
from etcpipe.zoo.moe import MixtureOfExperts, capacity
from etcpipe.zoo.traffic_moe import SIZES, TrafficMoe

CLASSES = tuple("abcde")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(before)


def flows(count, seed=1, packets=10):
    """Return rows of the view tok, of random bytes, the first packets of each flow."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, 10, 72), np.float32)
    rows[..., :TOKENS] = NO_BYTE
    rows[:, :packets, :TOKENS] = rng.integers(0, 256, (count, packets, TOKENS))
    rows[:, :packets, TOKENS:] = rng.normal(0, 1, (count, packets, 8))
    rows[:, :packets, TOKENS + 1] = rng.choice([-1, 1], (count, packets))
    return torch.from_numpy(rows)


def layer(experts=4, chosen=2, **options):
    module = MixtureOfExperts(16, 8, experts, chosen, 8, **options).eval()
    nn.init.normal_(module.router.weight)
    return module


def by_hand(module, tokens):
    """Every expert answers every token, and the chosen ones count."""
    affinity = torch.sigmoid(tokens @ module.router.weight.T)
    answers = []
    for token, liked in zip(tokens, affinity, strict=True):
        best = sorted(range(module.experts), key=lambda i: -(liked[i] + module.bias[i]).item())
        chosen = best[: module.chosen]
        total = sum(liked[i] for i in chosen)
        answer = module.shared(token)
        for i in chosen:
            hidden = nn.functional.silu(token @ module.gate[i]) * (token @ module.up[i])
            answer = answer + liked[i] / total * (hidden @ module.down[i])
        answers.append(answer)
    return torch.stack(answers)


@pytest.mark.parametrize("dispatch", ["loop", "static"])
def test_experts_answer_as_by_hand(dispatch):
    module = layer()
    module.bias[2] = 0.4  # selects, and has no part in the weight
    module.dispatch = dispatch
    tokens = torch.randn(3, 7, 16)
    with torch.no_grad():
        said = module(tokens, torch.ones(3, 7, dtype=torch.bool))
        expected = torch.stack([by_hand(module, flow) for flow in tokens])
    assert module.dropped == 0
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-6)


def test_room_is_by_flow_and_what_does_not_fit_is_counted():
    """All tokens like one expert: its room is used up, the others get the shared answer."""
    module = layer(experts=4, chosen=1)
    module.dispatch = "static"
    module.bias[0] = 10
    tokens, shown = torch.randn(2, 10, 16), torch.ones(2, 10, dtype=torch.bool)
    shown[1, 4:] = False
    room = capacity(10, 4, 1)
    with torch.no_grad():
        routed = module(tokens, shown) - module.shared(tokens)
    assert room == 5 and (module.routed, module.dropped) == (14, 5)
    assert (routed.abs().sum(dim=2) > 0).tolist() == [
        [True] * 5 + [False] * 5,
        [True] * 4 + [False] * 6,
    ]


@pytest.mark.parametrize("dispatch", ["loop", "static"])
def test_a_flow_is_answered_alone_as_in_any_batch(dispatch):
    """Even if all others want the experts that it wants."""
    module = ARCHS["traffic_moe_small"].build(16).eval()
    for one in module.mixtures():
        one.dispatch = dispatch
        nn.init.normal_(one.router.weight, std=0.5)
    rows = flows(4)
    mates = rows[:1].expand(63, -1, -1)
    with torch.inference_mode():
        alone = torch.cat([module(row[None]) for row in rows])
        together = module(torch.cat([rows, mates]))[:4]
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_packets_that_never_came_change_nothing():
    module = ARCHS["traffic_moe_small"].build(16).eval()
    rows = flows(2, packets=3)
    changed = rows.clone()
    changed[:, 3:, :TOKENS] = 7
    with torch.inference_mode():
        assert torch.allclose(module(rows), module(changed), rtol=1.3e-6, atol=1e-5)


ACTIVE = {"tiny": 115_120, "small": 1_115_312, "base": 6_439_088}


@pytest.mark.parametrize("size", SIZES)
def test_a_token_meets_as_many_parameters_as_the_spec_says(size):
    assert TrafficMoe(16, size).facts()["active_parameters"] == ACTIVE[size]


def exported(module, dispatch):
    for one in module.mixtures():
        one.dispatch = dispatch
    return to_onnx(module, Description("moe", CLASSES, "tok", (), "", 10))


def test_the_graph_of_the_loop_has_all_experts():
    """A trace follows the example's tokens: experts that it does not ask must not be lost."""
    module = TrafficMoe(5, "tiny").eval()
    graph = onnx.load_from_string(exported(module, "loop")).graph
    there = {onnx.numpy_helper.to_array(weights).tobytes() for weights in graph.initializer}
    (mixture,) = module.mixtures()
    for weights in (mixture.gate, mixture.up, mixture.down):
        assert all(one.detach().numpy().tobytes() in there for one in weights)


@pytest.mark.parametrize("dispatch", ["loop", "static"])
@pytest.mark.parametrize("packets", [0, 1, 10])
def test_the_file_answers_as_the_network(dispatch, packets):
    module = TrafficMoe(5, "tiny").eval()
    runner = open_runner(exported(module, dispatch))
    for count in (1, 6):
        rows = flows(count, packets=packets)
        with torch.inference_mode():
            expected = module(rows).numpy()
        np.testing.assert_allclose(runner.infer(rows.numpy()), expected, rtol=1e-3, atol=1e-5)


def test_bias_moves_against_the_load_until_it_settles():
    module = layer(experts=2, chosen=1).train()
    nn.init.zeros_(module.router.weight)
    module.bias[:] = torch.tensor([0.01, 0.0])
    for _ in range(5):
        module(torch.randn(1, 8, 16), torch.ones(1, 8, dtype=torch.bool))
        module.after_step(0.5)
    assert module.bias.tolist() == pytest.approx([0.005, 0.005], abs=1e-6)
    before = module.bias.clone()
    module.after_step(0.9)
    assert torch.equal(module.bias, before)


def test_dead_experts_are_told():
    module = layer(experts=4, chosen=1).train()
    module.bias[0] = 10
    for _ in range(600):
        module(torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool))
        module.after_step(1.0)
    facts = module.facts()
    assert facts["dead"] == 3 and facts["load"][0] > 0.99 and facts["entropy"] < 0.1
    assert layer().facts()["dead"] == 0


def test_the_router_pays_for_an_uneven_load_of_its_own_making():
    module = layer(balance="aux").train()
    module(torch.randn(1, 8, 16), torch.ones(1, 8, dtype=torch.bool))
    module.extra_loss().backward()
    assert module.router.weight.grad.abs().sum() > 0
    module.after_step(0.5)
    assert not module.bias.any()

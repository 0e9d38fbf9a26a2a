"""The zoo has the shapes that it says, and not the defects of those it follows."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="networks need etcpipe[torch]")
import torch

from etcpipe.gpu.views import VIEWS
from etcpipe.training import networks
from etcpipe.zoo import ARCHS
from etcpipe.zoo.layers import Block, MultiHead, SwiGlu
from etcpipe.zoo.matec import Matec

# Those of size base are the same graphs as small ones.
NOT_THE_LARGEST = [name for name in ARCHS if not name.endswith("_base")]
# Of 16 classes, counted by hand from the papers' layers.
PARAMETERS = {
    "knn": 0,
    "datanet_mlp": 194_224,
    "deeppacket": 10_107_366,
    "deeppacket_1000": 6_787_366,
    "bilstm_att": 1_551_192,
    "bilstm_att_1000": 1_151_192,
    "tscrnn": 797_360,
    "matec": 2_749_916,
    "df30": 1_445_008,
    "df30_lite": 276_976,
    "fsnet": 2_137_328,
    "yatc": 1_783_888,
    "traffic_moe_tiny": 151_984,
    "traffic_moe_small": 2_000_048,
    "traffic_moe_base": 20_201_648,
    "dense_active_tiny": 114_864,
    "dense_active_small": 1_112_240,
    "dense_active_base": 6_418_608,
    "dense_total_tiny": 151_728,
    "dense_total_small": 1_996_976,
    "dense_total_base": 20_181_168,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(before)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def rows_of(name, flows=4, seed=1):
    view = VIEWS[ARCHS[name].view]
    rng = np.random.default_rng(seed)
    if view.dtype == "float32":
        numbers = rng.normal(0, 1, (flows, *view.shape)).astype(np.float32)
        return torch.from_numpy(np.abs(numbers) if view.name == "tok" else numbers)
    return torch.from_numpy(rng.integers(1, 256, (flows, *view.shape)).astype(view.dtype))


@pytest.mark.parametrize("name", ARCHS)
def test_parameters_are_as_many_as_the_spec_says(name):
    assert count(ARCHS[name].build(16)) == PARAMETERS[name]


def test_matec_as_published_has_as_many_parameters_at_its_size():
    assert count(Matec(16, packets=3, length=786, heads=3)) == 2_608_888


def test_flows_that_look_the_same_vote_as_one():
    module = ARCHS["knn"].build(2)
    rows = np.zeros((9, 30, 3), np.float32)
    rows[:4, 0, 0], rows[4:, 0, 0] = 0.1, np.arange(5) + 1
    module.memorise(rows, np.array([0, 0, 0, 1, 1, 1, 1, 1, 1]))
    with torch.inference_mode():
        votes = module(torch.zeros(1, 30, 3)).exp() - 0.1
    expected = [0.75 * 1.04, 0.25 * 1.04 + 1.03 + 1.02 + 1.01 + 1]
    assert votes[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", NOT_THE_LARGEST)
def test_an_answer_does_not_depend_on_the_batch(name):
    module = ARCHS[name].build(16).eval()
    rows = rows_of(name)
    with torch.inference_mode():
        together, alone = module(rows), torch.cat([module(row[None]) for row in rows])
    assert together.shape == (4, 16)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NOT_THE_LARGEST)
def test_what_is_embedded_is_what_the_scores_are_made_of(name):
    module, rows = ARCHS[name].build(16), rows_of(name)
    embedded = networks.embed(module, rows.numpy())
    if name == "knn":
        assert embedded is None
        return
    with torch.inference_mode():
        scores = module.last_layer()(torch.tensor(embedded))
    assert np.allclose(scores, networks.score(module, rows.numpy()), rtol=1e-4, atol=1e-5)


def reach(module, tokens):
    """Return (tokens, tokens) bool: whether output i depends on input j."""
    tokens = tokens.requires_grad_()
    rows = [torch.autograd.grad(module(tokens)[0, i].sum(), tokens)[0][0] for i in range(3)]
    return torch.stack([row.abs().sum(dim=1) for row in rows]) > 0


def test_attention_mixes_packets():
    assert reach(MultiHead(432, 3), torch.randn(1, 3, 432)).all()


def test_what_is_asked_for_the_first_token_alone_is_what_all_get():
    block = Block(32, 4, SwiGlu(32, 8)).eval()
    tokens, shown = torch.randn(5, 9, 32), torch.rand(5, 9) > 0.4
    shown[:, 0] = True
    with torch.inference_mode():
        first, every = block.of_first(tokens, shown), block(tokens, shown)
    assert torch.allclose(first, every[:, :1], rtol=1.3e-6, atol=1e-5)


def test_attention_with_heads_split_as_published_does_not():
    """What the test above is good for: heads taken from one packet after the other."""

    class Published(MultiHead):
        def forward(self, tokens):
            flows, packets, width = tokens.shape
            parts = self.inputs(tokens).chunk(3, dim=-1)
            q, k, v = (x.reshape(flows * self.heads, -1, width // self.heads) for x in parts)
            mixed = (q @ k.transpose(1, 2) * self.scale).softmax(dim=-1) @ v
            return self.output(mixed.reshape(flows, packets, width))

    assert torch.equal(reach(Published(432, 3), torch.randn(1, 3, 432)), torch.eye(3).bool())


def seen_by(module, part, rows):
    """Return what a part of a network is given."""
    seen = []
    hook = part.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs, outputs)))
    with torch.inference_mode():
        scores = module.eval()(rows)
    hook.remove()
    ((inputs, outputs),) = seen
    return inputs[0], outputs, scores


def test_tscrnn_runs_over_packets_not_over_channels():
    module, rows = ARCHS["tscrnn"].build(16), rows_of("tscrnn", 1)
    before, _, _ = seen_by(module, module.over_packets, rows)
    rows[0, 3] += 1
    after, _, _ = seen_by(module, module.over_packets, rows)
    assert before.shape == (1, 10, 128)
    changed = (before != after).any(dim=2)[0].tolist()
    assert changed == [i == 3 for i in range(10)]


def test_bilstm_att_has_a_nonlinearity_between_its_last_layers():
    layers = ARCHS["bilstm_att"].build(16).layers
    x = torch.randn(1, 200)
    assert not torch.allclose(layers(x) + layers(-x), 2 * layers(torch.zeros(1, 200)), atol=1e-3)


def test_bilstm_att_looks_at_packets_that_came_only():
    module, rows = ARCHS["bilstm_att"].build(16), rows_of("bilstm_att", 1)
    rows[0, 1:] = 0
    _, (states, _), scores = seen_by(module, module.over_packets, rows)
    assert torch.allclose(scores, module.layers(states[:, 0].relu()), rtol=1.3e-6, atol=1e-5)


def test_no_size_is_no_packet():
    from etcpipe.zoo.fsnet import size_ids

    packets = torch.tensor([[[0.0, 1, 0], [40 / 1500, -1, 0], [1, 1, 0], [9, 1, 0], [0, 0, 0]]])
    assert size_ids(packets).tolist() == [[1, 41, 1501, 1503, 0]]


def test_fsnet_learns_to_tell_the_sizes_again():
    module = ARCHS["fsnet"].build(16).train()
    module(rows_of("fsnet"))
    assert module.extra_loss().item() == pytest.approx(0.5 * np.log(1504), rel=0.1)


def test_nearest_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (300, 30, 3)).astype(np.float32)
    label = (rows[:, :5, 0].sum(axis=1) > 0).astype(np.int32)
    module = ARCHS["knn"].build(2)
    assert module.memorise(rows[:200], label[:200])
    nearest = KNeighborsClassifier(5, metric="manhattan")
    nearest.fit(rows[:200, :10].reshape(200, -1), label[:200])
    expected = nearest.predict(rows[200:, :10].reshape(100, -1))
    with torch.inference_mode():
        assert (module(torch.from_numpy(rows[200:])).argmax(dim=1).numpy() == expected).all()


def test_yatc_cuts_patches_of_two_by_two_within_packets():
    from etcpipe.zoo.yatc import patches

    packets = torch.arange(5 * 320).remainder(251).to(torch.uint8).reshape(1, 5, 320)
    image = packets.reshape(40, 40)
    cut = (patches(packets)[0] * 255).round().to(torch.uint8)
    assert torch.equal(cut[0].reshape(2, 2), image[:2, :2])
    assert torch.equal(cut[21].reshape(2, 2), image[2:4, 2:4])
    assert torch.equal(cut[80 + 79].reshape(2, 2), image[14:16, 38:40])


def test_yatc_gives_its_head_what_is_normalised():
    module = ARCHS["yatc"].build(16)
    seen, _, _ = seen_by(module, module.head, rows_of("yatc"))
    assert seen.mean(dim=1).tolist() == pytest.approx([0] * 4, abs=1e-5)


def test_yatc_learns_to_tell_hidden_patches():
    from etcpipe.zoo.yatc import MaskedPatches

    module = MaskedPatches(ARCHS["yatc"].build(16))
    packets = torch.full((1, 5, 320), 200, dtype=torch.uint8)
    step = torch.optim.AdamW(module.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        losses.append(module(packets))
        step.zero_grad()
        losses[-1].backward()
        step.step()
    assert losses[-1].item() < 0.5 * losses[0].item()


def test_the_page_of_models_has_every_network_with_its_parameters():
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    for name, parameters in PARAMETERS.items():
        written = name if name.partition("_")[0] != "dense" else name.rpartition("_")[0] + "_*"
        (line,) = (line for line in page.splitlines() if line.startswith(f"| `{written}` |"))
        assert f"{parameters:,}" in line

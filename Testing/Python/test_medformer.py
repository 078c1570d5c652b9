"""MedFormer, against its published size, a dense reference of its attention, and torch's own operations."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from model_tools import tiny_manifest
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from LiverMarginLib.errors import BundleError
from LiverMarginLib.inference.segmenter import load_segmenter
from LiverMarginLib.models.architectures import check_manifest
from LiverMarginLib.models.bundle import Bundle, save_bundle
from LiverMarginLib.models.medformer import MedFormer
from LiverMarginLib.models.medformer_blocks import (
    BidirectionalAttention,
    PatchMerging,
    SemanticMap,
    SemanticMapFusion,
    bidirectional_attention,
    enlarge,
)

TINY = {
    "map_size": [2, 2],
    "widths": [4, 6, 8, 12, 16],
    "blocks": [1, 1, 1, 1, 1],
    "heads": [1, 2, 4, 2, 1],
    "convolutions": 1,
    "expansion": 2,
    "fusion_width": 12,
    "fusion_depth": 1,
    "fusion_heads": 3,
}


def tiny(**changes) -> MedFormer:
    torch.manual_seed(0)
    return MedFormer(**(TINY | changes))


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return MedFormer()


def test_the_published_configuration_has_38_59_million_parameters(published):
    # Counted from the authors' own code at commit 7c26979 with its configuration for LiTS.
    assert sum(p.numel() for p in published.parameters()) == 38_585_731


def test_a_block_of_128_voxels_takes_1130_billion_multiplications(published):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        published(torch.zeros(1, 1, 128, 128, 128))
    assert counter.get_total_flops() / 2e9 == pytest.approx(1130, rel=0.015)  # enlarging by matrix products counts too


def test_every_stage_has_the_published_shape(published):
    shapes = {}

    def note(name):
        def hook(_, __, output):
            shapes[name] = [tuple(part.shape) for part in ((output,) if torch.is_tensor(output) else output)]

        return hook

    named = {name: getattr(published, name) for name in ("stem", "first", "fusion", "head")}
    named |= {f"{way} {n}": stage for way in ("down", "up", "last") for n, stage in enumerate(getattr(published, way))}
    hooks = [stage.register_forward_hook(note(name)) for name, stage in named.items()]
    with torch.device("meta"):
        published(torch.zeros(1, 1, 128, 128, 128))
    for hook in hooks:
        hook.remove()

    def cube(channels, side):
        return (1, channels, side, side, side)

    assert shapes == {
        "stem": [cube(32, 128)],
        "first": [cube(64, 64)],
        "down 0": [cube(128, 32), cube(128, 4)],
        "down 1": [cube(256, 16), cube(256, 4)],
        "down 2": [cube(320, 8), cube(320, 4)],
        "fusion": [cube(128, 4), cube(256, 4), cube(320, 4)],
        "up 0": [cube(256, 16), cube(256, 4)],
        "up 1": [cube(128, 32), cube(128, 4)],
        "last 0": [cube(64, 64)],
        "last 1": [cube(32, 128)],
        "head": [cube(3, 128)],
    }


def dense_attention(voxel_query, voxel_value, code_query, code_value):
    """The same, number by number: each voxel and each code weighs all tokens of the other side."""

    def softmax(values):
        weights = [math.exp(value - max(values)) for value in values]
        return [weight / sum(weights) for weight in weights]

    n, m, d = len(voxel_query), len(code_query), len(voxel_query[0])
    affinity = [
        [sum(voxel_query[a][c] * code_query[b][c] for c in range(d)) / math.sqrt(d) for b in range(m)] for a in range(n)
    ]
    by_voxel = [softmax(row) for row in affinity]
    by_code = [softmax([affinity[a][b] for a in range(n)]) for b in range(m)]
    voxels = [[sum(by_voxel[a][b] * code_value[b][c] for b in range(m)) for c in range(d)] for a in range(n)]
    codes = [[sum(by_code[b][a] * voxel_value[a][c] for a in range(n)) for c in range(d)] for b in range(m)]
    return np.array(voxels), np.array(codes)


def test_bidirectional_attention_is_what_a_dense_computation_gives():
    torch.manual_seed(1)
    tokens = [torch.randn(count, 3, dtype=torch.float64) for count in (7, 7, 4, 4)]
    voxels, codes = bidirectional_attention(*tokens)
    expected = dense_attention(*(part.tolist() for part in tokens))
    np.testing.assert_allclose(voxels.numpy(), expected[0], rtol=1e-12)
    np.testing.assert_allclose(codes.numpy(), expected[1], rtol=1e-12)


def test_heads_attend_on_their_own_share_of_the_channels():
    torch.manual_seed(2)
    attention = BidirectionalAttention(2, inputs=3, codes=5, outputs=4, heads=2).double()
    features, codes = torch.randn(1, 3, 4, 2, dtype=torch.float64), torch.randn(1, 5, 2, 2, dtype=torch.float64)
    read, written = attention(features, codes)

    from_voxels, from_codes = (
        part.flatten(2)[0].T for part in (attention.from_voxels(features), attention.from_codes(codes))
    )
    by_voxels, by_codes = [], []
    for head in range(2):
        query, value = slice(2 * head, 2 * head + 2), slice(4 + 2 * head, 6 + 2 * head)
        parts = (from_voxels[:, query], from_voxels[:, value], from_codes[:, query], from_codes[:, value])
        one, other = dense_attention(*(part.tolist() for part in parts))
        by_voxels.append(one.T)
        by_codes.append(other.T)
    grids = [
        torch.tensor(np.concatenate(parts)).reshape(1, 4, *sides)
        for parts, sides in ((by_voxels, (4, 2)), (by_codes, (2, 2)))
    ]
    torch.testing.assert_close(read, attention.to_voxels(grids[0]))
    torch.testing.assert_close(written, attention.to_codes(grids[1]))


def test_a_semantic_code_is_a_mean_of_all_voxels_by_weights_of_its_own():
    torch.manual_seed(3)
    pool = SemanticMap(3, 2, (2, 1, 3)).double()
    features = torch.randn(1, 2, 3, 4, 2, dtype=torch.float64)
    values, logits = pool.value(features)[0].flatten(1), pool.weight(features)[0].flatten(1)
    codes = pool(features)
    assert codes.shape == (1, 2, 2, 1, 3)
    for code, row in enumerate(logits):
        weights = np.exp(row.detach().numpy())
        expected = (values.detach().numpy() * weights).sum(axis=1) / weights.sum()
        np.testing.assert_allclose(codes[0].flatten(1)[:, code].detach().numpy(), expected, rtol=1e-10)


def test_every_code_of_every_map_reaches_every_other_in_the_fusion():
    torch.manual_seed(4)
    fusion = SemanticMapFusion(2, (3, 5), width=8, depth=1, heads=2)
    maps = [torch.randn(1, channels, 2, 2, requires_grad=True) for channels in (3, 5)]
    fused = fusion(maps)
    assert [part.shape for part in fused] == [part.shape for part in maps]
    fused[1][0, 0, 0, 0].backward()
    for part in maps:
        assert (part.grad.abs().sum(dim=1) > 0).all()


def test_patch_merging_makes_channels_of_neighbours_and_loses_none():
    merging = PatchMerging(2, 1, 4)
    merging.project = torch.nn.Identity()
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    merged = merging(image)
    assert merged.shape == (1, 4, 2, 2)
    assert sorted(merged[0, :, 0, 0].tolist()) == [0, 1, 4, 5]
    assert sorted(merged[0, :, 1, 0].tolist()) == [8, 9, 12, 13]


@pytest.mark.parametrize(
    ("shape", "sides", "mode"), [((3, 5), (6, 10), "bilinear"), ((2, 3, 1), (4, 6, 2), "trilinear")]
)
def test_enlarging_is_torchs_linear_interpolation(shape, sides, mode):
    image = torch.randn(2, 3, *shape)
    expected = functional.interpolate(image, size=sides, mode=mode, align_corners=True)
    torch.testing.assert_close(enlarge(image, sides), expected)


@pytest.mark.parametrize("map_size", [[2, 2], [2, 1, 2]])
def test_logits_lie_on_the_inputs_grid_and_every_weight_learns(map_size):
    sides = (32, 48, 32)[: len(map_size)]
    net = tiny(map_size=map_size)
    logits = net(torch.randn(1, 1, *sides))
    assert logits.shape == (1, 3, *sides)
    logits.square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


def test_a_tiny_network_learns_on_a_cpu():
    net = tiny(classes=2)
    torch.manual_seed(5)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((rows - 12) ** 2 + (columns - 18) ** 2 < 64).long()[None]
    image = disc[:, None] + 0.3 * torch.randn(1, 1, 32, 32)
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = functional.cross_entropy(net(image), disc)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def slice_wise(**changes):
    parameters = TINY | {"in_channels": 1, "classes": 1}
    return tiny_manifest(architecture="medformer-2d", parameters=parameters | changes)


def test_the_two_dimensional_network_runs_from_its_bundle(tmp_path):
    net = tiny(classes=1).eval()
    save_bundle(tmp_path / "bundle", slice_wise(), module=net, onnx=False)
    batch = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    found = load_segmenter(Bundle.load(tmp_path / "bundle"), runtime="torch", device="cpu").predict(batch)
    with torch.no_grad():
        expected = torch.sigmoid(net(torch.from_numpy(batch))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_onnx_runtime_runs_the_network_as_torch_does(tmp_path):
    net = tiny(classes=1).eval()
    save_bundle(tmp_path / "bundle", slice_wise(), module=net)
    batch = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    bundle = Bundle.load(tmp_path / "bundle")
    found = [load_segmenter(bundle, runtime=runtime, device="cpu").predict(batch) for runtime in ("torch", "onnx")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"map_size": [2, 2, 2]}, "map_size"),
        ({"map_size": [10**6, 10**6]}, "map_size"),
        ({"widths": [4, 6, 8]}, "widths"),
        ({"heads": [1, 1, 1, 1, 3]}, "heads"),
        ({"fusion_heads": 5}, "heads"),
        ({"blocks": [0, 1, 1, 1, 1]}, "blocks"),
        ({"expansion": 10**9}, "expansion"),
        ({"classes": 3}, "classes"),
        ({"in_channels": 2}, "in_channels"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_before_anything_is_made(changes, words):
    with pytest.raises(BundleError, match=words):
        check_manifest(slice_wise(**changes))


def test_an_input_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(BundleError, match="divisible by 16"):
        check_manifest(dataclasses.replace(slice_wise(), input_size=(40, 32)))

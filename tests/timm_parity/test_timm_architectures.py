"""Facts of timm's own architectures that adapted models rest on."""

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import PatchMerging, WindowAttention

MILLIONS = {
    "resnet34": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "resnet50d": 25.58,
    "mobilenetv3_large_100": 5.48,
    "swin_tiny_patch4_window7_224": 28.29,
    "regnetx_002": 2.68,
    "regnetx_004": 5.16,
    "regnetx_032": 15.30,
    "regnety_016": 11.20,
    "regnety_032": 19.44,
}
REGNETS = {
    "regnetx_002": [(1, 24), (1, 56), (4, 152), (7, 368)],
    "regnetx_004": [(1, 32), (2, 64), (7, 160), (12, 384)],
    "regnetx_032": [(2, 96), (6, 192), (15, 432), (2, 1008)],
    "regnety_016": [(2, 48), (6, 120), (17, 336), (2, 888)],
    "regnety_032": [(2, 72), (5, 216), (13, 576), (1, 1512)],
}
"""Depth and width of each stage."""


def on_meta(arch, **kwargs):
    with torch.device("meta"):
        return timm.create_model(arch, **kwargs)


@pytest.mark.parametrize("arch", MILLIONS)
def test_parameter_counts(arch):
    count = sum(parameter.numel() for parameter in on_meta(arch).parameters())
    assert round(count / 1e6, 2) == MILLIONS[arch]


@pytest.mark.parametrize("arch", REGNETS)
def test_regnet_stages(arch):
    model = on_meta(arch)
    stages = [getattr(model, f"s{i}") for i in range(1, 5)]
    assert [(len(list(stage.children())), stage.b1.conv3.conv.out_channels) for stage in stages] == REGNETS[arch]
    if arch.startswith("regnety"):  # squeeze and excitation stands between the second and the third convolution
        assert [name for name, _ in stages[0].b1.named_children()][1:4] == ["conv2", "se", "conv3"]


def test_resnets_are_of_basic_and_bottleneck_blocks():
    basic, bottleneck, deep = on_meta("resnet34"), on_meta("resnet50"), on_meta("resnet50d")
    for model in (basic, bottleneck, deep):
        assert [len(getattr(model, f"layer{i}")) for i in range(1, 5)] == [3, 4, 6, 3]
    assert {name for name, _ in basic.layer1[0].named_children() if "conv" in name} == {"conv1", "conv2"}
    assert bottleneck.layer4[0].expansion == 4
    assert bottleneck.num_features == 4 * basic.num_features
    assert [m.out_channels for m in deep.conv1 if isinstance(m, torch.nn.Conv2d)] == [32, 32, 64]
    assert isinstance(deep.layer2[0].downsample[0], torch.nn.AvgPool2d)


def test_mobilenet_has_fifteen_blocks_and_a_head_of_1280():
    model = on_meta("mobilenetv3_large_100")
    assert sum(len(stage) for stage in model.blocks[:-1]) == 15
    assert model.blocks[-1][0].conv.out_channels == 960
    assert model.conv_head.out_channels == model.head_hidden_size == 1280


def test_relative_position_bias_is_indexed_by_the_offset_of_each_pair():
    side, heads = 7, 3
    attention = WindowAttention(dim=96, num_heads=heads, window_size=side)
    assert attention.relative_position_bias_table.shape == ((2 * side - 1) ** 2, heads) == (169, 3)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None, :] + side - 1
    right = columns[:, None] - columns[None, :] + side - 1
    index = attention.relative_position_index.view(side**2, side**2)
    assert torch.equal(index, down * (2 * side - 1) + right)


def test_shifted_windows_mask_pairs_of_different_regions():
    block = timm.create_model("swin_tiny_patch4_window7_224", depths=(2,), num_heads=(3,)).layers[0].blocks[1]
    mask = block.attn_mask
    assert mask.shape == (64, 49, 49)
    assert set(mask.unique().tolist()) == {0.0, -100.0}

    side, window, shift = 56, 7, 3
    bounds = torch.zeros(side, dtype=torch.long)
    bounds[-window:-shift], bounds[-shift:] = 1, 2
    regions = 3 * bounds[:, None] + bounds[None, :]
    assert len(regions.unique()) == 9
    windows = regions.view(8, window, 8, window).transpose(1, 2).reshape(64, window**2)
    assert torch.equal(mask != 0, windows[:, :, None] != windows[:, None, :])


@pytest.mark.parametrize("side", [8, 7])
def test_patch_merging_halves_the_side_and_doubles_the_width(side):
    assert PatchMerging(16)(torch.randn(2, side, side, 16)).shape == (2, 4, 4, 32)


def test_drop_path_drops_whole_samples_and_scales_the_kept_ones():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert all(len(sample.unique()) == 1 for sample in out[:50])
    assert [round(value, 4) for value in out.unique().tolist()] == [0.0, 1.3333]
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(torch.ones(3, 2)), torch.ones(3, 2))


def test_convnext_features_are_its_four_stages():
    model = on_meta("convnext_tiny", features_only=True, out_indices=(0, 1, 2, 3))
    assert model.feature_info.module_name() == [f"stages.{i}" for i in range(4)]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    first = [type(m).__name__ for m in on_meta("convnext_tiny").stages[1].downsample]
    assert first == ["LayerNorm2d", "Conv2d"]  # the norm comes before the change of resolution


def test_a_vit_block_normalises_before_its_branches_and_a_residual_unit_after_adding():
    order = [name for name, _ in on_meta("vit_tiny_patch16_224").blocks[0].named_children()]
    assert order.index("norm1") < order.index("attn") < order.index("norm2") < order.index("mlp")
    torch.manual_seed(0)
    block = timm.create_model("resnet18").layer1[0].eval()
    x = torch.randn(1, 64, 8, 8)
    branch = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(branch + x))

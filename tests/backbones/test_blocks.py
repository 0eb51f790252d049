"""The blocks found in timm's families are what their authors call blocks, stage by stage."""

import pytest
import timm
import torch

from moezoo import inject_moe
from moezoo.backbones.blocks import find_blocks
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.stacks import area
from moezoo.backbones.trace import model_input_size, trace

STAGES = {
    # Between plain stages: lone convolutions at the end, in front and between are no blocks.
    "tf_mobilenetv3_small_minimal_100": ("blocks.0.0", "blocks.4.2", [1, 2, 3, 2, 3]),
    "sehalonet33ts": ("stages.0.0", "stages.3.1", [2, 3, 3, 2]),
    "cspnext_s": ("stages.0.1", "stages.3.2", [1, 1, 1, 2]),
    "starnet_s1": ("stages.0.1", "stages.3.3", [2, 2, 8, 3]),
    "inception_resnet_v2": ("repeat.0", "repeat_2.8", [10, 20, 9]),
    "mobilenet_edgetpu_v2_s": ("blocks.1.0", "blocks.6.0", [2, 4, 4, 4, 4, 1]),
    "legacy_seresnet18": ("layer1.0", "layer4.1", [2, 2, 2, 2]),
    "csatv2": ("stages.0.0", "stages.3.6", [2, 2, 8, 6]),
    "regnety_032": ("s1.b1", "s4.b1", [2, 5, 13, 1]),  # the only block of a stage
    "rdnet_tiny": ("dense_stages.0.0", "dense_stages.6.2", [1] * 7),
    # A module without parameters (it flattens) stands in the list.
    "efficientformer_l1": ("stages.0.blocks.0", "stages.3.blocks.4", [3, 2, 6, 4]),
    # feature_info names modules that do not run, or layers inside the blocks.
    "twins_svt_small": ("blocks.0.0", "blocks.3.3", [2, 2, 10, 4]),
    "coat_lite_tiny": ("serial_blocks1.0", "serial_blocks4.1", [2, 2, 2, 2]),
    "coat_tiny": ("serial_blocks1.0", "parallel_blocks.5", [2, 2, 2, 2, 6]),
    "mvitv2_tiny": ("stages.0.blocks.0", "stages.3.blocks.1", [1, 2, 5, 2]),
    "nasnetalarge": ("cell_0", "cell_17", [6, 6, 6]),
    "pnasnet5large": ("cell_0", "cell_11", [4, 4, 4]),
    "legacy_xception": ("block1", "block12", [1, 1, 9, 1]),
    "xception41": ("blocks.0", "blocks.12", [1, 1, 9, 2]),
    # Flat lists are cut into stages by resolution.
    "hiera_tiny_224": ("blocks.0", "blocks.11", [1, 2, 7, 2]),
    "dpn48b": ("features.conv2_1", "features.conv5_3", [3, 4, 6, 3]),
    "rexnet_100": ("features.0", "features.15", [1, 2, 2, 6, 5]),
    "inception_v3": ("Mixed_5b", "Mixed_7c", [3, 5, 3]),
    "vgg11": ("features.1", "features.19", [1, 1, 2, 2, 2]),
    # The parts of one block are no blocks.
    "dla34": ("level2", "level5", [1, 1, 1, 1]),
    "selecsls42": ("features.0", "features.5", [2, 2, 2]),
    "convmixer_768_32": ("blocks.0", "blocks.31", [32]),
    "crossvit_tiny_240": ("blocks.0", "blocks.2", [3]),
    # A class token that comes late is no new stage.
    "convit_tiny": ("blocks.0", "blocks.11", [12]),
}  # fmt: skip


def traced_on_meta(arch, **options):
    with torch.device("meta"):
        model = timm.create_model(arch, **options).eval()
    return trace(model, model_input_size(model, None))


@pytest.mark.parametrize("arch", STAGES)
def test_stages_and_blocks(arch):
    first, last, counts = STAGES[arch]
    traced = traced_on_meta(arch)
    blocks = find_blocks(traced)
    assert (blocks[0].name, blocks[-1].name) == (first, last)
    stages = range(blocks[-1].stage + 1)
    assert [sum(b.stage == s for b in blocks) for s in stages] == counts
    for stage in stages:
        sizes = [area(traced, b.name) for b in blocks if b.stage == stage]
        assert min(sizes) > 0
        assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.parametrize(
    ("arch", "index", "dim", "grid"),
    [
        ("crossvit_tiny_240", 1, 192, (14, 14)),
        ("hrnet_w18_small", 3, 128, (7, 7)),
        ("coat_tiny", 3, 152, (7, 7)),
        ("tnt_s_legacy_patch16_224", 1, 384, (14, 14)),
        ("efficientvim_m1", 0, 320, (4, 4)),
    ],
)
def test_of_several_maps_the_deepest_is_adapted(arch, index, dim, grid):
    traced = traced_on_meta(arch)
    site = candidate_sites(traced, find_blocks(traced)[-1], 0)[0]
    assert (site.output_index, site.dim, site.grid) == (index, dim, grid)


@pytest.mark.parametrize(
    ("arch", "in_chans", "expected"),
    [("csatv2", 3, 3), ("tresnet_m", 3, 3), ("resnet18", 1, 1), ("resnet18", 4, 4), ("test_vit", 2, 2)],
)
def test_channels_of_the_images_are_those_the_model_takes(arch, in_chans, expected):
    with torch.device("meta"):
        model = timm.create_model(arch, in_chans=in_chans)
    assert model_input_size(model, None)[0] == expected


def test_the_default_place_is_the_last_stage_or_the_last_block():
    with torch.device("meta"):
        models = [timm.create_model(arch).eval() for arch in ("twins_svt_small", "crossvit_tiny_240")]
    places = [list(adapters_of(inject_moe(model, None, mlp_ratio=0.25))) for model in models]
    assert places == [[f"blocks.3.{i}.entity_moe" for i in range(4)], ["blocks.2.entity_moe"]]

"""RegNet's rule gives the published stages, and AnyNet is timm's RegNet where timm has it."""

import pytest
import timm
import torch
from timm.models import regnet

from moezoo.errors import ConfigError
from moezoo.search.spaces import AnyNet, Stages, block_widths, regnet_stages

CONFIGS = {name: cfg for name, cfg in regnet.model_cfgs.items() if name.startswith(("regnetx_", "regnety_"))}
PUBLISHED = {  # Radosavovic et al. 2020, the tables of the best models: depths, widths
    "regnetx_002": ((1, 1, 4, 7), (24, 56, 152, 368)),
    "regnetx_004": ((1, 2, 7, 12), (32, 64, 160, 384)),
    "regnetx_040": ((2, 5, 14, 2), (80, 240, 560, 1360)),
    "regnetx_320": ((2, 7, 13, 1), (336, 672, 1344, 2520)),
    "regnety_004": ((1, 3, 6, 6), (48, 104, 208, 440)),
    "regnety_040": ((2, 6, 12, 2), (128, 192, 512, 1088)),
    "regnety_320": ((2, 5, 12, 1), (232, 696, 1392, 3712)),
}


def stages_of(name):
    cfg = CONFIGS[name]
    options = {"least_share": cfg.group_min_ratio}
    return regnet_stages(cfg.w0, cfg.wa, cfg.wm, cfg.depth, 1 / cfg.bottle_ratio, cfg.group_size, **options)


def test_every_published_regnet_of_timm_comes_out_of_the_rule():
    assert len(CONFIGS) >= 28
    for name, cfg in CONFIGS.items():
        stages, _ = regnet.RegNet._get_stage_args(None, cfg)  # type: ignore[arg-type]
        ours = stages_of(name)
        assert list(ours.widths) == [each["out_chs"] for each in stages], name
        assert list(ours.depths) == [each["depth"] for each in stages], name
        assert list(ours.groups) == [each["group_size"] for each in stages], name


@pytest.mark.parametrize("name", PUBLISHED)
def test_stages_are_those_of_the_paper(name):
    assert (stages_of(name).depths, stages_of(name).widths) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["regnetx_002", "regnety_002"])
def test_four_stages_compute_what_timms_regnet_computes(name):
    theirs = timm.create_model(name, num_classes=7, in_chans=1).eval()
    with torch.no_grad():
        for module in theirs.modules():  # branches begin at zero: with that most of the network would not be seen
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(0.7)
    ours = AnyNet(stages_of(name), se_ratio=CONFIGS[name].se_ratio, in_chans=1, num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_a_fresh_network_begins_as_timms_does():
    net = AnyNet(Stages((16, 32), (1, 2), (1, 2), (4, 8)), stem_width=8, stem_stride=1, in_chans=1, num_classes=3)
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    assert float(net.s2.b2.conv3.bn.weight.detach().abs().max()) == 0  # type: ignore[union-attr]
    weight = net.s1.b1.conv2.conv.weight  # type: ignore[union-attr]
    assert weight.shape == (16, 4, 3, 3)
    assert float(weight.detach().std()) == pytest.approx((2 / (16 * 9 / 4)) ** 0.5, rel=0.15)


def test_stages_and_widths_that_cannot_be_are_refused():
    assert block_widths(24, 0.0, 2.0, 3) == [24, 24, 24]
    for wrong, message in (
        (lambda: Stages((24,), (1,), (2,), (8,)), "groups of 8 do not divide"),
        (lambda: Stages((24, 32), (1,), (1,), (8,)), "as many each"),
        (lambda: Stages((24,), (0,), (1,), (8,)), "above 0"),
        (lambda: block_widths(20, 1.0, 2.0, 3), "w_0=20"),
        (lambda: block_widths(24, 1.0, 1.0, 3), "w_m=1.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong()

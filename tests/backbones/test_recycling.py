"""Checkpoint recycling: experts that are sub-networks of a pretrained MLP, drawn as MoE Jetpack draws them."""

import copy
import pickle

import pytest
import timm
import torch
from torch.nn import functional as F

import moezoo
from moezoo.backbones.upcycled import UpcycledMLP
from moezoo.errors import ConfigError, InputError
from moezoo.moe.recycling import Activity, draw_units, sub_network
from moezoo.moe.upcycling import DenseWeights, ExpertInit

H, D = 24, 6
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def dense(gated=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = 2 * H if gated else H
    shapes = ((rows, D), (rows,), (D, H), (D,))
    return DenseWeights(*(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes))


def vit(**config):
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=32, **config).eval()


def moes(model):
    return [m.moe for m in model.modules() if isinstance(m, UpcycledMLP)]


def hidden(mlp, x):
    return mlp.act(mlp.fc1(x))


def test_units_are_drawn_by_equation_5_7_and_8():
    torch.manual_seed(0)
    widths = [24, 7, 7, 1]
    activity = Activity(torch.linspace(0, 1, H), torch.eye(H))
    for sampling in ("importance", "uniform", "random", "graph"):
        for seen in (None, activity):
            units = draw_units(dense(), widths, sampling, seen)
            assert [len(u) for u in units] == widths
            assert all(torch.equal(u, u.unique()) for u in units)  # ascending, none twice
            assert torch.equal(units[0], torch.arange(H))
            assert torch.equal(units[1], units[2]) == (sampling == "uniform")
    for width in (1, 5, 7, 24):
        (units,) = draw_units(dense(), [width], "uniform", None)
        assert units.tolist() == [i * H // width for i in range(width)]  # floor(i d / d')

    # Of one unit each, the chances are those of equation 5: A_h over the sum.
    drawn = torch.cat(draw_units(dense(), [1] * 2000, "importance", activity))
    share = drawn.bincount(minlength=H) / 2000
    torch.testing.assert_close(share, activity.size / activity.size.sum(), atol=0.03, rtol=0)
    weights = dense()
    size = weights.w_in.norm(dim=1) * weights.w_out.norm(dim=0)
    drawn = torch.cat(draw_units(weights, [1] * 2000, "importance", None))
    torch.testing.assert_close((drawn.bincount(minlength=H) / 2000).double(), size / size.sum(), atol=0.03, rtol=0)
    evenly = torch.cat(draw_units(weights, [1] * 2000, "random", None)).bincount(minlength=H) / 2000
    torch.testing.assert_close(evenly, torch.full((H,), 1 / H), atol=0.03, rtol=0)


def test_units_that_fire_together_share_an_expert():
    torch.manual_seed(0)
    group = torch.randperm(64) % 8
    together = (group[:, None] == group[None]).float()
    together[group == 3] *= 50  # co-activation that is drawn nearly always
    wide = DenseWeights(torch.randn(64, D), torch.zeros(64), torch.randn(D, 64), torch.zeros(D))
    activity = Activity(torch.ones(64), together)
    units = draw_units(wide, [16] * 20, "graph", activity)
    pairs = [together[u][:, u].bool().float().mean().item() for u in units]
    by_chance = together.bool().float().mean().item()
    assert sum(pairs) / len(pairs) > 1.5 * by_chance
    assert sum((group[u] == 3).sum() >= 4 for u in units) > 10


@pytest.mark.parametrize("gated", [False, True])
def test_a_sub_network_is_the_mlp_of_its_units_alone(gated):
    mlp, unit = dense(gated), torch.tensor([1, 4, 5, 20])
    part, x = sub_network(mlp, unit), torch.randn(5, D, dtype=torch.float64)
    h = x @ mlp.w_in.T + mlp.b_in
    h = F.gelu(h[:, :H]) * h[:, H:] if gated else F.gelu(h)
    want = h[:, unit] @ mlp.w_out[:, unit].T + mlp.b_out
    h = x @ part.w_in.T + part.b_in
    h = F.gelu(h[:, :4]) * h[:, 4:] if gated else F.gelu(h)
    torch.testing.assert_close(h @ part.w_out.T + part.b_out, want, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_upcycled_experts_are_sub_networks_of_core_and_universal_width():
    plain = vit()
    model = moezoo.upcycle(copy.deepcopy(plain), [1, 4], num_experts=6, init="recycle", router="sphero")
    for moe, block in zip(moes(model), (plain.blocks[1], plain.blocks[4]), strict=True):
        assert [m.hidden_dim for m in moe.experts.members] == [192, 192, 48, 48, 48, 48]  # a third, and a quarter
        columns, rows = block.mlp.fc2.weight.T, block.mlp.fc1.weight
        x = torch.randn(3, 64)
        for member in moe.experts.members:
            kept = [int((columns == c).all(1).nonzero()) for c in member.fc2.weight.T]
            assert torch.equal(member.fc1.weight, rows[kept])
            want = hidden(block.mlp, x)[:, kept] @ columns[kept] + block.mlp.fc2.bias
            torch.testing.assert_close(member(x), want)
        assert torch.equal(moe.experts.members[0].fc1.weight, rows)  # core experts have all units
        assert not torch.equal(moe.experts.members[2].fc1.weight, moe.experts.members[3].fc1.weight)
    counted = moezoo.measure.flops(model, IMAGES)
    assert counted.executed == counted.analytic
    assert not model.upcycle_report.preserved
    same = moezoo.upcycle(vit(), "last", num_experts=3, top_k=2, init="recycle", num_core=3)
    assert same.upcycle_report.preserved  # all units in all experts are copies
    assert moezoo.backbones.upcycle.measure_gap(same, plain, IMAGES) < 1e-5
    narrow = moezoo.upcycle(vit(), "last", num_experts=3, top_k=2, init="recycle", num_core=3, core_ratio=0.5)
    assert narrow.upcycle_report.sites[0].why == "an expert has some of the MLP's hidden units"
    assert tuple(moes(narrow)[0].experts.w_in.shape) == (3, 96, 64)  # of equal width, stacked as ever
    glu = timm.create_model("eva02_tiny_patch14_224", img_size=56, depth=1, embed_dim=48, num_heads=2)
    moezoo.upcycle(glu, "last", num_experts=3, init="recycle", universal_ratio=0.5)
    assert [m.gated for m in moes(glu)[0].experts.members] == [True] * 3
    assert glu(torch.randn(1, 3, 56, 56)).isfinite().all()


@torch.no_grad()
def test_images_tell_which_units_are_active(monkeypatch):
    plain, seen = vit(), []
    inputs = []
    handle = plain.blocks[4].mlp.register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    plain(IMAGES)
    handle.remove()
    real = draw_units

    def watched(weights, widths, sampling, activity):
        seen.append(activity)
        return real(weights, widths, sampling, activity)

    monkeypatch.setattr("moezoo.backbones.recycled.draw_units", watched)
    model = plain.train()
    batches = [IMAGES[:1], IMAGES[1:]]
    moezoo.upcycle(model, [4], num_experts=3, init="recycle", sampling="graph", images=batches)
    assert model.training
    act = F.gelu(F.linear(inputs[0].double(), *(p.double() for p in vit().blocks[4].mlp.fc1.parameters()))).flatten(
        0, 1
    )
    torch.testing.assert_close(seen[0].size, act.abs().mean(0), rtol=1e-4, atol=1e-6)
    together = ((act > 0).double().T @ (act > 0).double()) / len(act)
    torch.testing.assert_close(seen[0].together.double(), together, rtol=0, atol=1e-3)
    moezoo.upcycle(vit(), [4], num_experts=3, init="recycle", images=IMAGES)
    assert seen[-1].together is None  # which only the graph needs
    # A later dense checkpoint comes without images.
    model.load_state_dict(vit().state_dict(), strict=True)
    assert seen[-1] is None


@torch.no_grad()
def test_a_recycled_model_is_copied_and_takes_its_own_and_dense_checkpoints():
    model = moezoo.upcycle(vit(num_classes=4), [4], num_experts=4, init="recycle", router="sphero")
    start = vit(num_classes=4)
    torch.manual_seed(1)
    again = moezoo.upcycle(start, [4], num_experts=4, init="recycle", router="sphero")
    assert not torch.equal(again(IMAGES), model(IMAGES))
    again.load_state_dict(model.state_dict(), strict=True)
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IMAGES), model(IMAGES))
    donor = vit(num_classes=4)
    donor.blocks[4].mlp.fc2.bias.add_(1.0)
    model.load_state_dict(donor.state_dict(), strict=True)
    assert all(torch.equal(m.fc2.bias, donor.blocks[4].mlp.fc2.bias) for m in moes(model)[0].experts.members)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sampling": "importanse"}, "importance"),
        ({"num_core": 5}, "num_core=5"),
        ({"core_ratio": 0.0}, "core_ratio"),
        ({"universal_ratio": 1.5}, "universal_ratio"),
        ({"init": "copy", "sampling": "random"}, "it belongs to init='recycle'"),
        ({"init": "copy", "images": IMAGES}, "images is not allowed with init='copy'"),
        ({"sampling": "uniform", "images": IMAGES}, "images is not allowed with sampling='uniform'"),
    ],
)
def test_what_means_nothing_is_refused(config, words):
    model = vit()
    with pytest.raises(ConfigError, match=words):
        moezoo.upcycle(model, "last", **{"num_experts": 4, "init": "recycle", **config})
    assert not moes(model)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "images holds none"),
        (IMAGES[:0], "images holds none"),
        (IMAGES[0], r"images must be .*\(B, C, H, W\).*, got torch.float32 \(3, 32, 32\)"),
        (IMAGES.to(torch.uint8), "got torch.uint8"),
        ([(IMAGES, torch.zeros(len(IMAGES)))], "got tuple"),
        (3, "got int"),
        (IMAGES * torch.nan, "not finite"),
    ],
)
def test_images_that_show_no_activity_are_refused(images, words):
    model = vit()
    with pytest.raises(InputError, match=words):
        moezoo.upcycle(model, "last", num_experts=4, init="recycle", images=images)
    assert isinstance(model.blocks[-1].mlp, timm.layers.Mlp)


def test_there_may_be_no_core_expert():
    assert ExpertInit("recycle", num_core=0).widths(100, 2) == [25, 25]


@torch.no_grad()
def test_moe_jetpack_has_a_name_is_saved_and_has_a_twin_of_its_cost(tmp_path):
    config = moezoo.model_config("soft_moe/vit_small.jetpack")
    assert (config.router, config.init, config.num_experts) == ("sphero", "recycle", 24)
    size = {"img_size": 32, "num_classes": 4, "num_experts": 3, "num_slots": 1}
    model = moezoo.create_model("soft_moe/test_vit.jetpack", **size).eval()
    assert [m.hidden_dim for m in moes(model)[0].experts.members] == [192, 48, 48]
    assert moes(model)[0].train().router.noise_now().item() == pytest.approx(1 / 3)
    model.eval()
    moezoo.save_pretrained(model, tmp_path)
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
    twin = moezoo.create_model("soft_moe/test_vit.jetpack", dense=True, **size)
    assert [m.mlp.mlp.hidden_dim for m in twin.blocks[3:]] == [round(192 * 1.5 / 5)] * 3  # 1.5 MLPs for 5 tokens
    with pytest.raises(ConfigError, match=r"3\.00 times as wide"):
        moezoo.create_model("soft_moe/test_vit.jetpack", dense=True, **{**size, "num_slots": 10})
    with pytest.raises(ConfigError, match="sampling='random' is not allowed with init='copy'"):
        moezoo.model_config("soft_moe/vit_small", sampling="random")

"""Token routing in pretrained transformers: itself at budget 1, cheaper below, by the attention it already has."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import moezoo
from moezoo.backbones.attention import record_attention
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.tokens.routed_mlp import TokenRouting
from moezoo.errors import ConfigError, InjectionError, MoeZooError
from moezoo.moe import MoELayer

TINY = {
    "test_vit": {"img_size": 32},
    "test_vit3": {"img_size": 48},  # layer scale, no class token: its head pools by attention
    "deit_tiny_distilled_patch16_224": {"img_size": 48, "depth": 2, "embed_dim": 48},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2, "embed_dim": 48, "num_heads": 2},  # GLU, rotary
    "vit_small_patch16_dinov3": {"img_size": 48, "depth": 2, "embed_dim": 48, "num_heads": 2},  # four registers
    "vit_little_patch16_reg4_gap_256": {"img_size": 48, "depth": 2, "embed_dim": 48, "num_heads": 2},  # no class token
}


def images_of(size, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def moved(model):
    """Weights far from their start, where what a block adds would be next to nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def routed(model, where="all", **config):
    return moezoo.inject_moe(model, where, router="threshold", **config)


def layers(model):
    return [m for m in model.modules() if isinstance(m, TokenRouting)]


@pytest.mark.parametrize("arch", TINY)
@torch.no_grad()
def test_it_is_the_model_at_budget_one_and_cheaper_below(arch):
    model = moved(timm.create_model(arch, **TINY[arch])).eval()
    images = images_of(TINY[arch]["img_size"])
    plain, keys, full = model(images), list(model.state_dict()), moezoo.measure.flops(model, images).executed
    training = copy.deepcopy(model).train()
    torch.manual_seed(0)
    trained = training(images)

    assert routed(model) is model
    assert torch.equal(model(images), plain)
    torch.manual_seed(0)
    assert torch.equal(routed(training)(images), trained)
    assert [k for k in model.state_dict() if ".token_routing." not in k] == keys
    assert list(adapters_of(model)) == [f"blocks.{i}.mlp.token_routing" for i in range(len(model.blocks))]
    flops = []
    for budget in (1.0, 0.5, 0.0):
        model.set_budget(budget)
        counted = moezoo.measure.flops(model, images)
        assert counted.executed == counted.analytic
        flops.append(counted.executed)
        assert torch.equal(model(images), plain) == (budget == 1)
    # What the scores cost is next to nothing: one row of attention.
    tokens, first = len(images) * _tokens(model, images), layers(model)[0]
    big, small = (first.moe.experts.flops(rows) for rows in ([1, 0], [0, 1]))
    assert flops[0] - flops[2] == tokens * len(layers(model)) * (big - small)
    assert big == moezoo.measure.flops(_alone(model.blocks[0].mlp), torch.zeros(1, first.dense.dim)).executed
    assert full < flops[0] < 1.01 * full
    assert flops[0] > flops[1] > flops[2]


def _tokens(model, images):
    with moezoo.record_routing(model) as records:
        model(images)
    grid, prefix = records[0].grid, records[0].prefix_tokens
    assert records[0].routing.num_tokens == len(images) * (grid[0] * grid[1] + prefix)
    return grid[0] * grid[1] + prefix


def _alone(mlp):
    """The MLP without what was added to it."""
    plain = copy.deepcopy(mlp)
    del plain.__dict__["forward"], plain.token_routing
    return plain


@torch.no_grad()
def test_each_token_gets_one_of_the_two_by_the_class_tokens_attention():
    model = routed(moved(timm.create_model("test_vit", img_size=64)).eval())
    images, patches = images_of(64, 3), 16
    model.set_budget(0.4)
    seen = []
    mlp = model.blocks[2].mlp
    mlp.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with moezoo.record_routing(model) as records, record_attention(model) as attention:
        model(images)
    assert [(r.grid, r.prefix_tokens) for r in records] == [((4, 4), 1)] * 6
    for record, weights in zip(records, attention, strict=True):
        looks = weights.weights[:, :, 0, 1:]  # of the class token, among the patches
        share = (looks / looks.sum(-1, keepdim=True)).mean(1)
        want = F.pad(share / (share + 1 / patches), (1, 0), value=1.0)
        torch.testing.assert_close(record.routing.probs[:, 0].view(3, 17), want)
        big = (record.routing.expert_index == 0).view(3, 17)
        assert big.sum(1).tolist() == [7, 7, 7]  # ceil(0.4 * 17)
        assert big[:, 0].all()
        for row, scores in zip(big, want, strict=True):
            assert scores[row].min() >= scores[~row].max()

    tokens, output = seen[0]
    big = (records[2].routing.expert_index == 0).view(3, 17, 1)
    want = torch.where(big, _alone(mlp)(tokens), mlp.token_routing.small(tokens))
    torch.testing.assert_close(output, want)
    model.set_budget(0.0)
    seen.clear()
    model(images)
    assert torch.equal(seen[0][1], mlp.token_routing.small(seen[0][0].flatten(0, 1)).view(3, 17, -1))


@torch.no_grad()
def test_the_small_mlp_keeps_the_units_of_the_largest_weights():
    model = moved(timm.create_model("test_vit", img_size=32)).eval()
    mlp = copy.deepcopy(model.blocks[1].mlp)
    small = layers(routed(model, small_ratio=0.25))[1].small
    size = mlp.fc1.weight.norm(dim=1) * mlp.fc2.weight.norm(dim=0)
    kept = size.argsort(descending=True)[: len(size) // 4].sort().values
    x = torch.randn(5, 64)
    hidden = mlp.act(mlp.fc1(x))
    torch.testing.assert_close(small(x), hidden[:, kept] @ mlp.fc2.weight[:, kept].t() + mlp.fc2.bias)
    everything = routed(moved(timm.create_model("test_vit", img_size=32)).eval(), small_ratio=0.999)
    images = images_of(32)
    whole = everything(images)
    everything.set_budget(0.0)
    torch.testing.assert_close(everything(images), whole, rtol=1e-3, atol=1e-4)  # 1 of 192 units is gone, or none


@pytest.mark.parametrize("rule", ["importance", "clustering", "contiguous", "random"])
@torch.no_grad()
def test_a_dense_checkpoint_loads_strictly_and_makes_the_small_mlps_anew(rule):
    images = images_of(56)
    other = moved(timm.create_model("eva02_tiny_patch14_224", **TINY["eva02_tiny_patch14_224"])).eval()
    model = routed(
        timm.create_model("eva02_tiny_patch14_224", **TINY["eva02_tiny_patch14_224"]).eval(), small_init=rule
    )
    before = layers(model)[0].small.fc2.weight.clone()
    model.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(model(images), other(images))
    small = layers(model)[0].small
    assert small.fc1.weight.shape == (2 * small.fc2.weight.shape[1], 48)
    assert not torch.equal(small.fc2.weight, before)
    columns = other.blocks[0].mlp.fc2.weight.t()
    assert all(any(torch.equal(c, column) for column in columns) for c in small.fc2.weight.t())
    again = routed(timm.create_model("eva02_tiny_patch14_224", **TINY["eva02_tiny_patch14_224"]).eval())
    again.load_state_dict(model.state_dict(), strict=True)
    moezoo.set_budget(again, 0.3)
    model.set_budget(0.3)
    assert torch.equal(again(images), model(images))
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_state_dict(timm.create_model("test_vit", img_size=32).state_dict(), strict=False)


@torch.no_grad()
def test_copies_and_pickles_have_their_own_dials():
    model = routed(moved(timm.create_model("test_vit", img_size=32)).eval())
    images = images_of(32)
    full = model(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), timm.utils.ModelEmaV3(model).module):
        other.set_budget(0.0)
        assert not torch.equal(other(images), full)
        assert torch.equal(model(images), full)
        other.set_threshold(1e-6)
        assert torch.equal(other(images), full)
        other.blocks[0].mlp.fc1.weight.zero_()
        assert not torch.equal(other(images), full)
    model.set_threshold(None)
    with pytest.raises(ConfigError, match=r"budget=1\.5"):
        model.set_budget(1.5)


def test_every_weight_learns_and_the_budget_loss_brings_the_share_to_its_target():
    torch.manual_seed(0)
    model = routed(moved(timm.create_model("test_vit", img_size=64, num_classes=3)), budget_target=0.15)
    images, labels = images_of(64, 6), torch.arange(6) % 3
    model.set_budget(None)
    thresholds = [m.moe.router.threshold_logit for m in layers(model)]
    others = [p for p in model.parameters() if all(p is not t for t in thresholds)]
    optimizer = torch.optim.Adam([{"params": thresholds, "lr": 0.1}, {"params": others, "lr": 1e-4}])
    shares, priced = [], []
    for step in range(25):
        with moezoo.record_routing(model) as records:
            task = F.cross_entropy(model(images), labels)
        shares.append(torch.cat([r.routing.expert_index == 0 for r in records]).float().mean().item())
        aux = moezoo.aux_loss(model)
        priced.append(aux.item())
        optimizer.zero_grad()
        (task + 10 * aux).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
        if step == 0:
            assert all(threshold.grad < 0 for threshold in thresholds)  # a higher one, to spend less
        optimizer.step()
    assert shares[0] > 0.3
    assert abs(shares[-1] - 0.15) < 0.06
    assert priced[-1] < 0.2 * priced[0]


def test_a_frozen_backbone_keeps_its_own_mlps():
    model = moezoo.freeze_backbone(routed(timm.create_model("test_vit", img_size=32), score="learned"))
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("blocks.0.mlp.fc") for name in learns)
    assert {n.removeprefix("blocks.0.mlp.token_routing.moe.") for n in learns if n.startswith("blocks.0.")} == {
        "router.threshold_logit",
        "router.weight",
        "router.bias",
        *(f"experts.members.1.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")),
    }


@torch.no_grad()
def test_models_without_a_class_token_are_scored_otherwise():
    images = images_of(64)
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=24, depths=(1, 1))
    plain = swin.eval()(images)
    routed(swin, score="learned")
    assert torch.equal(swin(images), plain)
    with pytest.raises(ConfigError, match=r"no attention.*'learned', 'random'"):
        routed(timm.create_model("test_convnext"), score="mean_attention")
    swin.set_budget(0.25)
    with moezoo.record_routing(swin) as records:
        swin(images)
    assert [(r.grid, r.prefix_tokens) for r in records] == [((16, 16), 0), ((8, 8), 0)]
    assert [r.routing.expert_rows() for r in records] == [[128, 384], [32, 96]]

    lots = routed(timm.create_model("test_vit", img_size=64).eval(), score="random")
    lots.set_budget(0.5)
    with moezoo.record_routing(lots) as records:
        assert torch.equal(lots(images), lots(images))  # the same lots
    assert {tuple(r.routing.expert_rows()) for r in records} == {(18, 16)}
    assert moezoo.aux_loss(lots.train()) == 0

    arch = "vit_little_patch16_reg4_gap_256"
    model = timm.create_model(arch, **TINY[arch]).eval()
    with pytest.raises(ConfigError, match=r"no class token.*mean_attention"):
        routed(model, score="class_attention")
    routed(model)
    assert not layers(model)[0].scores.by_class
    model.set_budget(4 / 13)
    with moezoo.record_routing(model) as records:
        model(images_of(48))
    assert (records[0].routing.expert_index.view(2, 13)[:, :4] == 0).all()  # the registers


@torch.no_grad()
def test_features_masks_and_patch_dropout_go_on_working():
    model = moved(timm.create_model("test_vit", img_size=64, patch_drop_rate=0.5)).eval()
    images = images_of(64)
    want = model.forward_intermediates(images, intermediates_only=True)
    routed(model)
    got = model.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    model.train().set_budget(0.5)
    with moezoo.record_routing(model) as records:
        model(images)
    assert [r.routing.num_tokens for r in records] == [2 * 9] * 6  # half of the patches, and the class token
    assert records[0].grid is None
    model.eval().set_input_size(img_size=96)
    with moezoo.record_routing(model) as records:
        model(images_of(96))
    assert records[0].grid == (6, 6)
    model.reset_classifier(3)
    assert model(images_of(96)).shape == (2, 3)


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles_as_one_graph_and_exports():
    model = routed(moved(timm.create_model("test_vit", img_size=32)).eval())
    model.set_budget(0.5)
    images = images_of(32)
    want = model(images)
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(images), want)
    assert torch.equal(torch.export.export(model, (images,)).module()(images), want)


def test_what_cannot_be_is_refused_and_leaves_the_model_alone():
    images = images_of(32)
    vit = timm.create_model("test_vit", img_size=32).eval()
    keys, plain = list(vit.state_dict()), vit(images)
    for config, told in [
        ({"small_ratio": 0.0}, "small_ratio"),
        ({"small_ratio": 1.0}, "small_ratio"),
        ({"small_ration": 0.5}, "Did you mean: small_ratio"),
        ({"num_experts": 4}, "num_experts"),
        ({"score": "attention"}, "score"),
        ({"budget": 1.5}, "budget"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": 0.5, "budget": 0.5}, "one of them decides"),
        ({"threshold": 0.5, "score": "random"}, "no scores"),
        ({"threshold_init": 0.0}, "threshold_init"),
        ({"router_mode": "hard"}, "router_mode"),
        ({"budget_target": -0.1}, "budget_target"),
    ]:
        with pytest.raises(ConfigError, match=told):
            routed(vit, **config)
    with pytest.raises(InjectionError, match="out of range"):
        routed(vit, 9)
    assert list(vit.state_dict()) == keys
    assert torch.equal(vit(images), plain)
    assert not hasattr(vit, "set_budget")

    routed(vit, "last")
    for again in ({"router": "threshold"}, {"num_experts": 2}):
        with pytest.raises(InjectionError, match="already has an adapter"):
            moezoo.inject_moe(vit, 0, **again)
    with pytest.raises(InjectionError, match="no MLP"):
        moezoo.upcycle(vit, "last", num_experts=2)
    with pytest.raises(ConfigError, match="no effect"):
        moezoo.set_budget(timm.create_model("test_vit", img_size=32), 0.5)

    for arch, score, told in [
        ("test_resnet", None, "no MLP"),
        ("test_convnext", "class_attention", "no attention"),
        ("test_convnext", None, "no attention"),
        ("cait_xxs24_224", "class_attention", "q_norm"),
        ("convnext_atto", "learned", "rows of tokens"),
    ]:
        kwargs = {"depth": 2} if arch.startswith("cait") else {}
        with pytest.raises(MoeZooError, match=told):
            routed(timm.create_model(arch, **kwargs), score=score)


def test_an_explicit_adapter_keeps_entity_moe_with_the_router_of_that_name():
    vit = moezoo.inject_moe(
        timm.create_model("test_vit", img_size=32), adapter="entity", router="threshold", num_experts=2, mlp_ratio=0.5
    )
    assert list(adapters_of(vit)) == ["blocks.5.entity_moe"]
    plain = moezoo.inject_moe(timm.create_model("test_vit", img_size=32), num_experts=2, mlp_ratio=0.5)
    assert list(adapters_of(plain)) == ["blocks.5.entity_moe"]
    named = moezoo.inject_moe(timm.create_model("test_vit", img_size=32), adapter="token_routing")
    assert list(adapters_of(named)) == ["blocks.5.mlp.token_routing"]


@torch.no_grad()
def test_a_network_of_ones_own_routes_by_a_learned_score():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

        def forward(self, x):
            return x + self.mlp(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = block(x)
            return x.mean(1)

    net = Net().eval()
    images = images_of(16)
    plain = net(images)
    moezoo.inject_moe(net, "all", router="threshold", score="learned", input_size=(3, 16, 16))
    assert torch.equal(net(images), plain)
    assert sum(isinstance(m, MoELayer) for m in net.modules()) == 2
    net.set_budget(0.5)
    assert not torch.equal(net(images), plain)

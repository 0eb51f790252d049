"""Mixture of depths routed by attention maps: timm's model at budget 1, some tokens skip whole blocks below."""

import copy
import math
import pickle

import pytest
import timm
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop

import moezoo
from moezoo.backbones.tokens.depth import DepthRouting
from moezoo.compress import prune_hidden, quantize
from moezoo.errors import ConfigError, InjectionError, InputError
from moezoo.measure.image_cost import image_cost
from moezoo.measure.per_image import flops_per_image

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def vit(**config):
    torch.manual_seed(0)
    return moved(timm.create_model("test_vit", img_size=64, **config)).eval()


def deep(model, where="every2", **config):
    return moezoo.inject_moe(model, where, adapter="token_routing", routes="block", **config)


def softmax(x):
    e = (x - x.max(-1, keepdim=True).values).exp()
    return e / e.sum(-1, keepdim=True)


def layer_norm(x, norm):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def block_by_hand(block, x):
    """One image's (N, D) tokens through a block of timm, and its attention map (heads, N, N), written out."""
    attn, mlp, heads = block.attn, block.mlp, block.attn.num_heads
    n, d = x.shape
    qkv = layer_norm(x, block.norm1) @ attn.qkv.weight.T + attn.qkv.bias
    q, k, v = qkv.view(n, 3, heads, d // heads).permute(1, 2, 0, 3)
    maps = softmax(q @ k.transpose(1, 2) / math.sqrt(d // heads))
    x = x + (maps @ v).transpose(0, 1).reshape(n, d) @ attn.proj.weight.T + attn.proj.bias
    hidden = layer_norm(x, block.norm2) @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ mlp.fc2.weight.T + mlp.fc2.bias, maps


def by_hand(model, images, capacity, routed):
    """A-MoD's forward in double precision; also which tokens pass each routed block."""
    model = copy.deepcopy(model).double()
    start = model.pos_drop(model._pos_embed(model.patch_embed(images.double())))
    logits, passed = [], {i: [] for i in routed}
    for x in start:
        for i, block in enumerate(model.blocks):
            if i not in routed:
                x, maps = block_by_hand(block, x)
                continue
            received = maps.mean(0).mean(0)  # over heads, then over queries: equation 4
            received[0] = torch.inf  # the class token is not left out
            chosen = sorted(sorted(range(len(x)), key=lambda j: -received[j])[: math.ceil(capacity * len(x))])
            x = x.clone()
            x[chosen] = block_by_hand(block, x[chosen])[0]
            passed[i].append(chosen)
        logits.append(layer_norm(x, model.norm)[0] @ model.head.weight.T + model.head.bias)
    return torch.stack(logits), passed


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0.5, 0.125])
def test_it_computes_a_mod_as_the_paper_has_it(capacity):
    plain = vit()
    model = deep(copy.deepcopy(plain), budget=capacity)
    with moezoo.record_routing(model) as records:
        got = model(IMAGES)
    want, passed = by_hand(plain, IMAGES, capacity, (1, 3, 5))
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    assert [r.name for r in records] == [f"blocks.{i}.token_routing.moe" for i in (1, 3, 5)]
    for record, chosen in zip(records, passed.values(), strict=True):
        assert (record.grid, record.prefix_tokens) == ((4, 4), 1)
        big = (record.routing.expert_index == 0).view(3, 17)
        assert [row.nonzero()[:, 0].tolist() for row in big] == chosen
        assert not torch.equal(big[0], big[1])  # every image its own
    assert not torch.allclose(got, plain(IMAGES), atol=1e-2)


@torch.no_grad()
def test_at_budget_one_it_is_timms_model_and_below_it_costs_what_the_formula_says():
    plain = vit(drop_path_rate=0.3)
    model = deep(copy.deepcopy(plain))
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict(), strict=True)
    for each in (model.train(), plain.train()):
        torch.manual_seed(0)
        each.trained = each(IMAGES)
    assert torch.equal(model.trained, plain.trained)  # stochastic depth too
    model.eval(), plain.eval()

    dense, width, tokens, blocks = moezoo.measure.flops(plain, IMAGES).executed, 64, 17, 3
    per_row = 2 * width * (4 * width + 2 * plain.blocks[0].mlp.fc1.out_features)
    scores = blocks * len(IMAGES) * 2 * tokens**2 * width
    for budget, kept in ((1.0, 17), (0.5, 9), (0.25, 5), (0.0, 0)):
        model.set_budget(budget)
        counted = moezoo.measure.flops(model, IMAGES)
        assert counted.executed == counted.analytic
        saved = (tokens - kept) * per_row + (tokens**2 - kept**2) * 4 * width
        assert counted.executed == dense + scores - blocks * len(IMAGES) * saved
        each = flops_per_image(model, IMAGES)
        assert each.flops.sum().item() == pytest.approx(counted.analytic)
        cost = image_cost(model, IMAGES[:1])
        assert cost.of_shares(dict.fromkeys(cost.layers, (kept / 17, 1 - kept / 17))) == pytest.approx(
            float(each.flops[0])
        )
    passed_by = model(IMAGES)
    for i in (1, 3, 5):
        plain.blocks[i] = torch.nn.Identity()
    assert torch.equal(passed_by, plain(IMAGES))


@torch.no_grad()
def test_the_formula_says_what_is_executed_of_a_smaller_model_too():
    model = deep(vit())
    whole = moezoo.measure.flops(model, IMAGES).executed
    for change in (lambda model: prune_hidden(model, 0.5), quantize):
        change(model)
        counted = moezoo.measure.flops(model, IMAGES)
        assert counted.analytic == counted.executed < whole


def test_every_weight_learns_and_recomputing_gives_the_same_gradients():
    images, labels = IMAGES, torch.tensor([0, 1, 2])

    def gradients(checkpointing, every=1):
        model = deep(vit(num_classes=3), budget=0.5)
        model.set_grad_checkpointing(checkpointing)
        if every > 1:
            timm.models.vision_transformer.checkpoint_seq = lambda f, x: timm.models.checkpoint_seq(f, x, every=every)
        # Two forwards before one backward: what judged the tokens of the first is not what judged the second's.
        loss = sum(torch.nn.functional.cross_entropy(model(x), labels) for x in (images, images.flip(0) * 2))
        assert moezoo.aux_loss(model) == 0
        loss.backward()
        assert not list(model.blocks[1].token_routing.parameters())
        return [p.grad for p in model.parameters()]

    with set_checkpoint_early_stop(False):
        plain = gradients(False)
        assert all(grad is not None and grad.abs().sum() > 0 for grad in plain)
        again = gradients(True)
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
        original = timm.models.vision_transformer.checkpoint_seq
        try:
            again = gradients(True, every=2)
        finally:
            timm.models.vision_transformer.checkpoint_seq = original
        assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@torch.no_grad()
def test_other_scores_rank_by_other_attention_or_by_lots():
    choices = {}
    for score in (None, "received_attention", "class_attention", "mean_attention", "random"):
        model = deep(vit(), [3], score=score, budget=0.4)
        with moezoo.record_routing(model) as records:
            assert torch.equal(model(IMAGES), model(IMAGES))
        choices[score] = (records[0].routing.expert_index == 0).view(3, 17)
        assert choices[score].sum(1).tolist() == [7, 7, 7]
        assert choices[score][:, 0].all()  # a control by lots has the class token, too
    assert torch.equal(choices[None], choices["received_attention"])
    assert len({tuple(c.flatten().tolist()) for c in choices.values()}) == 4
    mlps = moezoo.inject_moe(vit(), [3], adapter="token_routing", score="received_attention", budget=0.4)
    with moezoo.record_routing(mlps) as records:
        mlps(IMAGES)
    assert (records[0].routing.expert_index == 0).sum() == 21  # a block's own attention may judge for its MLP alone


@torch.no_grad()
def test_the_variant_is_saved_copied_and_dialled(tmp_path):
    config = moezoo.model_config("attention_routing/vit_small.amod")
    assert (config.routes, config.inject_layers, config.fraction, config.budget) == ("block", "every2", 0.5, None)
    torch.manual_seed(0)
    model = moved(moezoo.create_model("attention_routing/test_vit.amod", img_size=64)).eval()
    assert sum(isinstance(m, DepthRouting) for m in model.modules()) == 3
    half = model(IMAGES)
    assert torch.equal(deep(vit(), budget=0.5)(IMAGES), half)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.set_budget(1.0)
        assert torch.equal(other(IMAGES), vit()(IMAGES))
        other.blocks[1].mlp.fc1.weight.zero_()
    assert torch.equal(model(IMAGES), half)
    with pytest.raises(ConfigError, match="no effect"):
        model.set_threshold(0.5)
    model.set_budget(0.25)
    moezoo.save_pretrained(model, tmp_path)
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert (again.moezoo_config.budget, again.moezoo_config.routes) == (0.25, "block")
    assert torch.equal(again(IMAGES), model(IMAGES))
    features = moezoo.create_model("attention_routing/test_vit.amod", img_size=64, features_only=True)
    assert features(IMAGES)[-1].shape == (3, 64, 4, 4)


def test_what_cannot_skip_is_refused_and_left_alone():
    model = vit()
    for where, config, told in [
        ("all", {}, "none before it"),
        ([0], {}, "none before it"),
        ([2, 3], {}, r"tokens skip 'blocks\.2' too"),
        ("every2", {"score": "learned"}, "no gradient"),
        ("every2", {"small_ratio": 0.5}, "small_ratio=0.5 does nothing"),
        ("every2", {"router_mode": "gumbel"}, "router_mode='gumbel' does nothing"),
        ("every2", {"threshold": 0.5}, "threshold=0.5 does nothing"),
    ]:
        with pytest.raises((ConfigError, InjectionError), match=told):
            deep(model, where, **config)
    assert torch.equal(model(IMAGES), vit()(IMAGES))
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=24, depths=(2, 2))
    eva = timm.create_model("eva02_tiny_patch14_224", img_size=56, depth=2, embed_dim=48, num_heads=2)
    beit = timm.create_model("beit_base_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=2)
    for other in (swin, eva, beit):
        with pytest.raises(InjectionError, match="tokens cannot skip"):
            deep(other, [1])
    assert deep(vit(), [0], score="random", budget=0.5)(IMAGES).isfinite().all()
    with pytest.raises(InputError, match="the tokens alone"):
        deep(model).forward_features(IMAGES, attn_mask=torch.ones(17, 17, dtype=torch.bool))


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles_as_one_graph_and_exports():
    model = deep(vit(), budget=0.5)
    want = model(IMAGES)
    assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGES), want)
    assert torch.equal(torch.export.export(model, (IMAGES,)).module()(IMAGES), want)

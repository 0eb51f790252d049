"""The fusions: what they compute, what they learn from, what they skip, and what they refuse."""

import copy
import inspect

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.models.multiscale_moe.fusion import (
    KINDS,
    AdaptiveExpertNetwork,
    CrossModalMoE,
    DynamicMoE,
    ExpertNetwork,
    GatingNetwork,
    HierarchicalMoE,
    MultiHeadGatingNetwork,
    MultiScaleMoE,
    build_fusion,
    expert_balance_loss,
)
from moezoo.moe import losses, record_routing
from moezoo.moe.aux import mark_root

D = 6
SMALL = {"hidden_dim": 10, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def features(count=3, batch=5, dim=D):
    return [torch.randn(batch, dim, dtype=torch.float64) for _ in range(count)]


def spread(module):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.7 * torch.randn_like(p))
    return module.double()


def layered(x, weight, bias, scale, shift):
    return F.gelu(F.layer_norm(x @ weight.T + bias, bias.shape, scale, shift))


def gate_logits(gates, weight, bias, x, head):
    for layer in gates.layers:
        x = layered(x, layer.weight[head], layer.bias[head], layer.norm_weight[head], layer.norm_bias[head])
    return x @ weight[head].T + bias[head]


def written_out(f, xs):
    """The documented sum, expert by expert, and the weights."""
    r = f.moe.router
    weights = (gate_logits(r.gates, r.weight, r.bias, torch.cat(xs, -1), 0) / r.temperature).softmax(-1)
    return weighed(f, xs, weights), weights


def weighed(f, xs, weights):
    e, fused = f.moe.experts, 0
    for i, x in enumerate(xs):
        h = layered(x, e.w_in[i], e.b_in[i], e.norm1_weight[i], e.norm1_bias[i])
        y = layered(h, e.w_out[i], e.b_out[i], e.norm2_weight[i], e.norm2_bias[i])
        if e.residual_weight:
            y = y + e.residual_weight * (x @ e.w_res[i].T + e.b_res[i])
        fused = fused + weights[:, i : i + 1] * y
    for linear, norm in zip(f.final[::4], f.final[1::4], strict=True):
        fused = layered(fused, linear.weight, linear.bias, norm.weight, norm.bias)
    return fused


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5])
def test_output_and_gradients_are_those_of_the_formula(inputs):
    own = {"gate_layers": 1 + inputs % 3, "temperature": 0.6, "residual_weight": (inputs % 3) / 2}
    f = spread(MultiScaleMoE(D, range(1, inputs + 1), final_fusion=inputs != 2, **own, **SMALL))
    xs = [x.requires_grad_() for x in features(inputs)]
    for mode in (True, False):
        f.train(mode)
        got, expected = f(xs), written_out(f, xs)
        wanted = [*xs, *f.parameters()]
        grads = [
            torch.autograd.grad((out * out).sum() + (w**3).sum(), wanted, materialize_grads=True)
            for out, w in (got, expected)
        ]
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(got[1].sum(1), torch.ones(5, dtype=torch.float64))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)
    for batch in (0, 1, 9, 40):  # few rows are computed another way than many, with and without gradients
        some = features(inputs, batch)
        with torch.no_grad():
            torch.testing.assert_close(f(some), written_out(f, some))
            f32 = copy.deepcopy(f).float()
            torch.testing.assert_close(f32([x.float() for x in some])[0].double(), f(some)[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("heads", [1, 2])
def test_fusions_of_modalities_are_those_of_the_formulas(heads):
    """Two experts for each modality behind one gate, and two scales of each behind two gates; some are missing."""
    own = {"num_heads": heads, "gate_layers": 3, "temperature": 0.6, "residual_weight": 0.5, **SMALL}
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])
    blank = torch.zeros(4, 3, dtype=torch.float64).masked_fill(~there, -torch.inf)

    def voted(gate, x, off=0, first=0, stride=1):
        """The mean over the heads, which are gates ``first``, ``first + stride``, …"""
        logits = torch.stack([gate_logits(*gate, x, first + stride * head) for head in range(heads)])
        return (logits / 0.6 + off).softmax(-1).mean(0)

    f = spread(CrossModalMoE(D, experts_per_modality=2, **own)).eval()
    xs = [x * seen[:, None] for x, seen in zip(features(3, 4), there.T, strict=True)]
    r = f.moe.router
    weights = voted((r.gates, r.weight, r.bias), torch.cat(xs, 1), blank.repeat_interleave(2, 1))
    expected = weighed(f, [x for x in xs for _ in range(2)], weights), weights.unflatten(1, (3, 2)).sum(-1)
    torch.testing.assert_close(f(xs, present=there), expected)

    f = spread(HierarchicalMoE(D, scales=(2, 4), **own)).eval()
    many = [[x * seen[:, None] for x in features(2, 4)] for seen in there.T]
    r, flat = f.moe.router, [x for scales in many for x in scales]
    coarse = voted((r.coarse, r.coarse_weight, r.coarse_bias), torch.cat(flat, 1), blank)
    gate = r.fine, r.fine_weight, r.fine_bias
    fine = [voted(gate, torch.cat(scales, 1), first=m, stride=3) for m, scales in enumerate(many)]
    weights = coarse[..., None] * torch.stack(fine, 1)
    torch.testing.assert_close(f(many, present=there), (weighed(f, flat, weights.flatten(1)), weights))


def test_the_parts_have_the_documented_sizes():
    expert, x = ExpertNetwork(), torch.randn(2, 512)
    assert expert(x).shape == (2, 512)
    assert [type(part).__name__ for part in expert.expert] == ["Linear", "LayerNorm", "GELU", "Dropout"] * 2
    assert isinstance(expert.residual_proj, nn.Linear)
    assert ExpertNetwork(8, 16, 4, num_layers=3)(torch.randn(2, 3, 8)).shape == (2, 3, 4)
    with pytest.raises(ConfigError, match="residual='identity'"):
        ExpertNetwork(8, 16, 4, residual="identity")
    gate = GatingNetwork()
    assert sum(p.numel() for p in gate.parameters()) == 1536 * 768 + 768 * 3 + 768 * 3 + 3
    assert gate(torch.randn(4, 1536)).shape == (4, 3)
    with torch.device("meta"):
        f = MultiScaleMoE()
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in f.moe.named_children()}
    assert parts["experts"] == 3 * sum(p.numel() for p in expert.parameters())
    assert parts["router"] == sum(p.numel() for p in gate.parameters())
    heads = MultiHeadGatingNetwork(16, 3).eval()
    w = heads(torch.randn(2, 7, 16))
    torch.testing.assert_close(w.sum(-1), torch.ones(2, 7))
    assert heads.router.num_heads == 4
    assert AdaptiveExpertNetwork(10, 4, 2.5).hidden_dim == 25
    assert AdaptiveExpertNetwork(10, 4, 2.5).slice_dims == (7, 6, 6, 6)


def everything():
    """Each module with a call that uses all of it."""
    many = [features(2) for _ in range(3)]
    made = {kind: (build_fusion(kind, D, (2, 4, 8), **SMALL), (features(),)) for kind in KINDS}
    made["two heads"] = (MultiScaleMoE(D, (2, 4), num_heads=2, gate_layers=3, **SMALL), (features(2),))
    made["hierarchical"] = (HierarchicalMoE(D, scales=(2, 4), num_heads=2, **SMALL), (many,))
    made["cross-modal"] = (CrossModalMoE(D, experts_per_modality=2, **SMALL), (features(),))
    made["dynamic"] = (DynamicMoE(D), (features(batch=40)[0],))
    made["adaptive"] = (AdaptiveExpertNetwork(D, 4), (features(batch=40)[0],))
    made["expert"] = (ExpertNetwork(D, 8, 4), (features()[0],))
    return made


def test_every_parameter_learns_and_nothing_is_printed_or_shared(capsys):
    for name, (module, inputs) in everything().items():
        module = module.double() if name == "adaptive" else spread(module)  # it starts with most of its units in use
        out = module(*inputs)
        (out[0] if isinstance(out, tuple) else out).square().sum().backward()
        for key, p in module.named_parameters():
            assert p.grad is not None, (name, key)
            assert p.grad.abs().sum() > 1e-9, (name, key)
        for parameter in inspect.signature(type(module).__init__).parameters.values():
            assert not isinstance(parameter.default, (list, dict, set)), name
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("dim", "scales", "own"),
    [
        (512, (4, 8, 16), {}),
        (512, (4, 8, 16, 32, 64), {"num_heads": 4, "gate_layers": 3}),
        (64, (4, 16), {"hidden_dim": 128, "final_fusion": False}),
        (32, (4,), {"hidden_dim": 128, "residual_weight": 0.0}),
    ],
)
def test_controls_are_as_large_as_the_mixture(dim, scales, own):
    with torch.device("meta"):
        for match in ("parameters", "flops"):
            sizes = {}
            for kind in KINDS:
                fusion = build_fusion(kind, dim, scales, match=match, **own)
                x = [torch.empty(2, dim) for _ in scales]
                parameters = sum(p.numel() for p in fusion.parameters())
                sizes[kind] = parameters if match == "parameters" else moezoo.measure.flops(fusion, (x,)).executed
                fusion(x)  # in training, with its losses
                fused, weights = fusion.eval()(x)
                assert fused.shape == (2, dim)
                assert (weights is None) == (kind != "moe")
            for kind, size in sizes.items():
                assert abs(size / sizes["moe"] - 1) < 0.01, (match, kind, sizes)


def test_thresholds_top_k_and_the_residual_are_alive():
    xs = features()
    f = spread(MultiScaleMoE(D, (2, 4, 8), residual_weight=1.0, **SMALL)).eval()
    full, weights = f(xs)
    for change in ({"top_k": 1}, {"expert_threshold": 0.5}, {"residual_weight": 0.5}, {"temperature": 3.0}):
        g = MultiScaleMoE(D, (2, 4, 8), **{"residual_weight": 1.0, **change}, **SMALL).double().eval()
        g.load_state_dict(f.state_dict())
        assert not torch.allclose(g(xs)[0], full), change
        torch.testing.assert_close(g(xs)[1].sum(1), torch.ones(5, dtype=torch.float64))
    assert MultiScaleMoE(D, (2, 4), residual_weight=0.0).moe.experts.w_res is None
    f.moe.router.temperature = 1e-9
    torch.testing.assert_close(f(xs)[1], F.one_hot(weights.argmax(1), 3).double())


def test_what_is_skipped_costs_nothing_and_is_counted_so():
    xs = [x.float() for x in features(3, 50)]
    f = MultiScaleMoE(D, (2, 4, 8), **SMALL)
    spread(f).float()
    costs = []
    for k, threshold in ((None, 0.0), (2, 0.0), (1, 0.0), (None, 0.3)):
        f.moe.router.eval_top_k, f.moe.router.threshold = k, threshold
        counted = moezoo.measure.flops(f, (xs,))
        assert counted.executed == counted.analytic
        with record_routing(f.eval()) as records:
            _, weights = f(xs)
        assert sum(records[0].routing.expert_rows()) == (weights > 0).sum()
        costs.append(counted.executed)
    assert costs[0] > costs[1] > costs[2]
    assert costs[0] > costs[3]


def test_all_calls_of_a_shared_fusion_reach_the_loss_and_nothing_grows():
    f = MultiScaleMoE(D, (2, 4, 8), balance_target=0.2, **SMALL)
    spread(f)

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.fusion = f

        def forward(self, seen):
            return sum(self.fusion(xs)[0] for xs in seen)

    root = Three()
    mark_root(root)
    seen = [features() for _ in range(3)]
    kinds = {"load_variance": 0.01, "local_entropy": 0.001, "output_diversity": 0.01}
    assert f.moe.aux.weights == kinds
    expected = []
    for xs in seen:
        with record_routing(f) as records:
            f(xs)
        expected.append(moezoo.aux_loss(f).item())
        weights = written_out(f, xs)[1]
        entropy = -(weights * weights.log()).sum(-1).mean()
        balance = expert_balance_loss(weights, 0.2)
        plain = 0.01 * balance + 0.001 * entropy + 0.01 * f.moe.aux.calls[0]["output_diversity"]
        torch.testing.assert_close(moezoo.aux_loss(f).double(), plain, atol=1e-7, rtol=1e-5)
        assert losses.local_entropy_loss(records[0].routing) == pytest.approx(entropy.item())
    for _ in range(3):
        root(seen)
        assert len(f.moe.aux.calls) == 3
        assert moezoo.aux_loss(root).item() == pytest.approx(sum(expected) / 3)
    moezoo.aux_loss(root).backward()
    assert f.moe.router.weight.grad.abs().sum() > 1e-6  # sparsity and balance have a gradient
    root.eval()
    root(seen)
    assert moezoo.aux_loss(root) == 0
    assert set(vars(f)) == set(vars(copy.deepcopy(f)))


def test_balance_loss_of_plain_weights():
    w = torch.rand(9, 4, dtype=torch.float64).softmax(-1)
    expected = ((w.numpy().mean(0) - 0.25) ** 2).mean()
    assert expert_balance_loss(w).item() == pytest.approx(expected)
    assert expert_balance_loss(w, 0.33).item() == pytest.approx(((w.numpy().mean(0) - 0.33) ** 2).mean())
    assert expert_balance_loss(torch.full((3, 5), 0.2)).item() == pytest.approx(0, abs=1e-15)
    assert expert_balance_loss(torch.ones(3, 1)) == 0
    assert expert_balance_loss(torch.ones(0, 2)) == 0
    with pytest.raises(InputError, match=r"expert_weights must be \(B, E\), got \(3,\)"):
        expert_balance_loss(torch.ones(3))
    with pytest.raises(InputError, match=r"expert_weights must be \(B, E\), got list"):
        expert_balance_loss([[0.5, 0.5]])
    with pytest.raises(ConfigError, match="target_balance=2"):
        expert_balance_loss(w, 2)


def test_what_is_missing_is_not_looked_at():
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, True]])
    rubbish = float("nan")
    for f, deep in ((HierarchicalMoE(D, scales=(2, 4), **SMALL), 2), (CrossModalMoE(D, **SMALL), 0)):
        spread(f)
        made = [features(deep or 1, 4) for _ in range(3)]
        broken = [[x.masked_fill(~there[:, m, None], rubbish) for x in own] for m, own in enumerate(made)]
        blank = [[x.masked_fill(~there[:, m, None], 0.0) for x in own] for m, own in enumerate(made)]
        for mode in (True, False):
            f.train(mode)
            out, weights = f(broken if deep else [own[0] for own in broken], present=there)
            again, _ = f(blank if deep else [own[0] for own in blank], present=there)
            torch.testing.assert_close(out, again)
            by_modality = weights.sum(-1) if deep else weights
            assert torch.equal(by_modality > 0, there)
            torch.testing.assert_close(by_modality.sum(1), torch.ones(4, dtype=torch.float64))
        f.train()
        only = torch.tensor([[False, False, True]]).expand(4, -1)
        out = f(made if deep else [own[0] for own in made], present=only)
        (out[0].sum() + moezoo.aux_loss(f)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in f.parameters())  # unused experts: zeros
        nobody = [[x[:0] for x in own] for own in made]
        out, _ = f(nobody if deep else [own[0] for own in nobody], present=there[:0])
        (out.sum() + moezoo.aux_loss(f)).backward()
        assert out.shape == (0, D)
        with pytest.raises(InputError, match="without any expert"):
            f(made if deep else [own[0] for own in made], present=torch.zeros(4, 3, dtype=torch.bool))
        with pytest.raises(InputError, match=r"present must be bool \(4, 3\)"):
            f(made if deep else [own[0] for own in made], present=there[:, :2])


def test_what_does_not_fit_is_refused_by_name():
    f, xs = MultiScaleMoE(D, (2, 4, 8), **SMALL).double(), features()
    for given, words in [
        (xs[:2], r"features must hold 3 tensors \(scale 2, scale 4, scale 8\), got 2"),
        ([*xs[:2], xs[2][:, :4]], r"features\[2\] \(scale 8\) must be floating-point \(B, 6\)"),
        ([xs[0], xs[1][:3], xs[2]], r"features\[0\] has 5 rows, features\[1\] \(scale 4\) 3"),
        ([xs[0], xs[1].float(), xs[2]], r"of one dtype.*features\[1\]"),
        ([xs[0], xs[1].to("meta"), xs[2]], r"on one device.*features\[1\]"),
        ([xs[0], None, xs[2]], r"features\[1\] \(scale 4\) must be a tensor"),
        (torch.stack(xs), r"features must be a list of 3 tensors"),
    ]:
        with pytest.raises(InputError, match=words):
            f(given)
    h = HierarchicalMoE(D, scales=(2, 4), **SMALL).double()
    with pytest.raises(InputError, match=r"3 lists, one per modality \(RGB, NIR, TIR\), got 2"):
        h([xs[:2], xs[:2]])
    with pytest.raises(InputError, match=r"features\[1\] \(NIR\) must be a list of 2 tensors"):
        h([xs[:2], xs, xs[:2]])
    with pytest.raises(TypeError, match="experts_per_input"):  # which its gate and its weights do not know
        MultiScaleMoE(D, experts_per_input=2)
    for module in (ExpertNetwork(D), GatingNetwork(D), DynamicMoE(D), AdaptiveExpertNetwork(D, 4)):
        with pytest.raises(InputError, match=rf"{type(module).__name__} takes \(\.\.\., 6\), got \(3, 5\)"):
            module(torch.randn(3, 5))
        with pytest.raises(InputError, match=r"takes \(\.\.\., 6\), got list"):
            module([torch.randn(3, 6)])
    for make, words in [
        (lambda: MultiScaleMoE(D, (4, 4)), "a scale is there twice"),
        (lambda: MultiScaleMoE(D, ()), "scales="),
        (lambda: MultiScaleMoE(D, top_k=4), "top_k=4"),
        (lambda: MultiScaleMoE(D, expert_threshold=2.0), "expert_threshold=2.0"),
        (lambda: MultiScaleMoE(D, gate_layers=4), "gate_layers=4"),
        (lambda: MultiScaleMoE(D, hidden_dim=None), "hidden_dim=None"),
        (lambda: HierarchicalMoE(D, hidden_dim=0), "hidden_dim=0"),
        (lambda: MultiScaleMoE(D, temperature=0.0), "temperature=0.0"),
        (lambda: MultiScaleMoE(D, residual_weight=-1.0), "residual_weight=-1.0"),
        (lambda: MultiScaleMoE(D, balance_target=1.5), "balance_target=1.5"),
        (lambda: CrossModalMoE(D, ("RGB", "RGB")), "a name is there twice"),
        (lambda: CrossModalMoE(D, "RGB"), "modalities='RGB'"),
        (lambda: DynamicMoE(D, 4, 3, 3), "nothing to decide"),
        (lambda: AdaptiveExpertNetwork(2, 2, 1.0), "only 2 hidden units"),
        (lambda: build_fusion("maen", D), "Did you mean: mean"),
        (lambda: build_fusion("concat", 64, range(1, 9), hidden_dim=1, gate_layers=1, residual_weight=0.0), "larger"),
    ]:
        with pytest.raises(ConfigError, match=words):
            make()


def test_checkpointing_either_way_computes_the_same():
    f, xs = spread(MultiScaleMoE(D, (2, 4, 8), **SMALL)), features()
    (f(xs)[0].square().sum() + moezoo.aux_loss(f)).backward()
    expected = [p.grad for p in f.parameters()]
    for attached in (False, True):
        twin = copy.deepcopy(f)
        twin.zero_grad()
        twin.moe.aux.attached = attached
        inputs = [x.clone().requires_grad_() for x in xs]
        out, _ = checkpoint(lambda *given, twin=twin: twin(list(given)), *inputs, use_reentrant=attached)
        (out.square().sum() + moezoo.aux_loss(twin)).backward()
        for p, grad in zip(twin.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, grad)


def test_it_trains_behind_distributed_data_parallel():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        f = spread(CrossModalMoE(D, **SMALL))
        wrapped = DistributedDataParallel(f)
        there = torch.tensor([[True, False, True]] * 5)  # the second modality's expert is used by no process
        for _ in range(2):
            out, _ = wrapped(features(), present=there)
            loss = moezoo.aux_loss(wrapped)
            assert loss > 0  # found through the wrapper
            (out.sum() + loss).backward()
        assert all(p.grad is not None for p in f.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dim", [D, 96])
def test_it_exports_with_any_batch(dim):
    """Also where many rows are computed another way than few."""
    f = spread(MultiScaleMoE(dim, (2, 4, 8), hidden_dim=2 * dim, dropout=0.0)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"features": [{0: batch}] * 3}
    program = torch.export.export(f, (features(dim=dim),), dynamic_shapes=shapes).module()
    for size in (1, 5, 30):
        xs = features(3, size, dim)
        torch.testing.assert_close(program(xs), f(xs))


@pytest.mark.slow
def test_it_compiles_in_one_graph():
    f, xs = spread(MultiScaleMoE(D, (2, 4, 8), **SMALL)), features()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(xs), f(xs))
    f.eval()
    f.moe.router.eval_top_k = 2
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(xs), f(xs))

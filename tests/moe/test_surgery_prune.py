"""Pruning: what is removed, that unused experts are missed by nobody, and that refusals change nothing."""

import copy
import pickle

import pytest
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, prune_experts, record_routing
from moezoo.moe.routers import routers

D = 8
ROUTERS = {name: {} for name in routers} | {"group_limited": {"num_groups": 2, "top_groups": 2}}
SPLIT = {"fixed_cells", "random_fraction", "score_threshold", "top_fraction"}
"""Between two experts, always."""
WITHOUT_ROWS = {"hash", "hierarchical", "modality", "random"} | SPLIT


def layer(router="softmax_topk", num_experts=6, top_k=2, **kwargs):
    if router in ("dense_softmax", "hierarchical", "mlp_gate", "soft", "sphero"):
        top_k = 1
    if router in SPLIT:
        num_experts, top_k = 2, 1
    args = ROUTERS[router]
    made = MoELayer(
        D, num_experts=num_experts, top_k=top_k, hidden_dim=6, router=router, router_args=args or None, **kwargs
    )
    for p in made.parameters():
        nn.init.normal_(p, std=0.5)
    return made.eval()


def never_choose(made, experts, x):
    """Make the router's logits of some experts far below the others on ``x``, whose last entry is one."""
    with torch.no_grad():
        made.router.weight[experts] = 0.0
        made.router.weight[experts, -1] = -50.0


def tokens(*shape):
    x = torch.randn(*shape, D)
    x[..., -1] = 1.0
    return x


@pytest.fixture
def x():
    return tokens(4, 5)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = layer(), layer(num_experts=4)
        self.head = nn.Linear(D, 3)

    def forward(self, x):
        return self.head(x + self.second(x + self.first(x)))


@pytest.mark.parametrize("expert", ["mlp", "glu"])
def test_experts_that_no_token_chose_are_missed_by_nobody(x, expert):
    made = layer(expert=expert, num_shared_experts=1)
    never_choose(made, [1, 4], x)
    before, state = made(x), copy.deepcopy(made.state_dict())
    report = prune_experts(made, keep=4, data=x)
    assert torch.equal(made(x), before)
    assert report.layers[0].made_from == ((0,), (2,), (3,), (5,))
    assert (report.change, report.layers[0].change, report.preserved, report.layers[0].kept_use) == (0, 0, True, 1)
    kept = [0, 2, 3, 5]
    for key, tensor in made.state_dict().items():
        assert torch.equal(tensor, state[key][kept] if key.startswith(("router", "experts")) else state[key])
    assert (made.num_experts, made.router.num_experts, made.experts.num_experts) == (4, 4, 4)
    assert made.inactive_parameters() == 2 * sum(p[0].numel() for p in made.experts.parameters())


@pytest.mark.parametrize("router", sorted(set(ROUTERS) - WITHOUT_ROWS))
def test_every_router_with_rows_of_its_own_computes_what_a_smaller_one_with_these_rows_does(router, x):
    made = layer(router).train()
    report = prune_experts(made, keep=4, data=x)
    kept = [e for (e,) in report.layers[0].made_from]
    assert made.training
    assert (made.num_experts, made.experts.num_experts) == (4, 4)
    assert kept == sorted(kept)
    fresh = layer(router, num_experts=4)
    fresh.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(fresh(x), made.eval()(x))
    assert fresh.router.top_k == made.router.top_k
    assert getattr(fresh.router, "noise_std", None) == getattr(made.router, "noise_std", None)
    made.train()(x).sum().backward()
    moezoo.moe.step_routers(made)
    assert all(p.grad is not None for p in made.experts.parameters())


def test_use_is_counted_by_assignments_or_by_weight(x):
    made = layer(top_k=1, num_experts=2)
    with torch.no_grad():  # expert 0 has three tokens of 1/2, expert 1 two of nearly 1
        made.router.weight.zero_()
        made.router.weight[1, 0] = 1.0
        x = torch.zeros(1, 5, D)
        x[0, 3:, 0] = 9.0
    assert prune_experts(copy.deepcopy(made), keep=1, data=x).layers[0].made_from == ((0,),)
    report = prune_experts(made, keep=1, data=x, by="weight")
    assert report.layers[0].made_from == ((1,),)
    share = 2 / (1 + torch.exp(torch.tensor(-9.0)).item())
    assert report.layers[0].use == pytest.approx((1.5 / (1.5 + share), share / (1.5 + share)))


def test_the_report_states_what_another_computation_finds(x):
    model = Two()
    old = copy.deepcopy(model)
    data = [x, tokens(2, 3)]
    report = prune_experts(model, keep=3, data=data)
    with record_routing(old) as records:
        before = [old(batch) for batch in data]
    after = [model(batch) for batch in data]

    def change(new, reference):
        new, reference = (torch.cat([t.flatten() for t in each]) for each in (new, reference))
        return ((new - reference).norm() / reference.norm()).item()

    assert report.change == pytest.approx(change(after, before), rel=1e-5)
    assert [site.name for site in report.layers] == ["first", "second"]
    for site, num_experts in zip(report.layers, (6, 4), strict=True):
        counts = sum(r.routing.counts() for r in records if r.name == site.name)
        assert site.use == pytest.approx((counts / counts.sum()).tolist())
        best = sorted(range(num_experts), key=lambda e: -counts[e])[:3]
        assert site.made_from == tuple((e,) for e in sorted(best))
        assert (site.before, site.after) == (num_experts, 3)
        assert site.kept_use == pytest.approx((counts[best].sum() / counts.sum()).item())
    # Of each layer alone, on the inputs it had in the old model.
    inputs = {"first": data, "second": [batch + old.first(batch) for batch in data]}
    for site in report.layers:
        new, reference = ([getattr(m, site.name)(each) for each in inputs[site.name]] for m in (model, old))
        assert site.change == pytest.approx(change(new, reference), rel=1e-5)
    lines = str(report).splitlines()
    assert lines[1].split()[:4] == ["first", "6", "->", "3"]
    assert lines[-1].split() == ["model", "10", "->", "6", f"{report.change:.2e}"]


def test_named_layers_alone_are_changed_and_parameters_are_new_objects(x):
    model = Two()
    optimizer = torch.optim.SGD(model.parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    model.first.experts.w_in.requires_grad_(False)
    prune_experts(model, keep=3, data=x, layers=["fir*"])
    assert (model.first.num_experts, model.second.num_experts) == (3, 4)
    assert not model.first.experts.w_in.requires_grad
    assert all(id(p) not in held for p in (*model.first.router.parameters(), *model.first.experts.parameters()))
    assert {id(p) for p in (*model.second.parameters(), *model.head.parameters())} <= held
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


def test_groups_of_the_router_stay_equal_in_size(x):
    made = layer("group_limited")
    with torch.no_grad():
        made.router.bias[:] = torch.tensor([9.0, 8.0, 7.0, -9.0, -8.0, -7.0])  # the first group is used alone
    report = prune_experts(made, keep=4, data=x)
    first, second = report.layers[0].made_from[:2], report.layers[0].made_from[2:]
    assert {e for (e,) in first} < {0, 1, 2}
    assert {e for (e,) in second} < {3, 4, 5}
    with pytest.raises(ConfigError, match=r"keep=3 is not allowed: GroupLimitedRouter has 2 groups"):
        prune_experts(made, keep=3, data=x)


def test_batches_may_be_mappings_or_come_with_labels(x):
    made, twin = (layer() for _ in range(2))
    twin.load_state_dict(made.state_dict())
    a = prune_experts(made, keep=3, data=[(x, torch.zeros(4)), [x * 2, torch.zeros(4)]])
    b = prune_experts(twin, keep=3, data=({"x": batch} for batch in (x, x * 2)))
    assert a == b


@pytest.mark.parametrize("kind", [tuple, list])
def test_what_a_loader_gives_next_is_one_batch_with_labels(x, kind):
    made, twin = (layer() for _ in range(2))
    twin.load_state_dict(made.state_dict())
    a = prune_experts(made, keep=3, data=kind((x, torch.arange(4))))
    assert a == prune_experts(twin, keep=3, data=x)


@pytest.mark.parametrize("second", [tokens(4, 5), torch.arange(3)], ids=["another batch", "of another length"])
def test_two_batches_are_no_batch_with_labels(x, second):
    seen = []

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer()

        def forward(self, batch):
            seen.append(batch)
            return self.layer(batch if batch.is_floating_point() else x)

    prune_experts(Seeing(), keep=3, data=[x, second])
    assert [batch is x for batch in seen] == [True, False] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 1}, ConfigError, r"'first': 1 experts are too few: the router gives a token top_k=2"),
        ({"keep": 4}, ConfigError, r"'second': keep=4 is not allowed: it must be a whole number from 1 to 3"),
        ({"keep": 0}, ConfigError, r"keep=0"),
        ({"keep": True}, ConfigError, r"keep=True"),
        ({"by": "wieght"}, ConfigError, r"by='wieght' is not allowed\. Did you mean: weight"),
        ({"layers": "frist"}, ConfigError, r"no MoE layer is called 'frist'.*first"),
        ({"layers": []}, ConfigError, r"names no MoE layer"),
        ({"layers": 5}, ConfigError, r"layers=5 is not allowed: it must be a path or pattern, or a list of them"),
        ({"data": []}, InputError, r"got nothing"),
        ({"data": 3}, InputError, r"got int"),
        ({"data": torch.empty(0, 5, D)}, InputError, r"'first' got no token"),
        ({"data": torch.zeros(2, D + 1)}, InputError, r"MoELayer takes"),
    ],
)
def test_what_is_refused_leaves_the_model_as_it_was(x, arguments, error, message):
    model = Two().train()
    state, objects = copy.deepcopy(model.state_dict()), [id(p) for p in model.parameters()]
    with pytest.raises(error, match=message):
        prune_experts(model, **{"keep": 3, "data": x, **arguments})
    assert [id(p) for p in model.parameters()] == objects
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert (model.first.num_experts, model.second.router.num_experts, model.second.experts.num_experts) == (6, 4, 4)
    assert model.training
    assert not model.first._forward_hooks
    assert torch.isfinite(model(x)).all()


def test_a_failure_after_the_change_undoes_it_and_keeps_the_handles_of_hooks(x):
    class Fixed(Two):
        def forward(self, x):
            assert self.first.num_experts == 6
            return super().forward(x)

    model = Fixed()
    state = copy.deepcopy(model.state_dict())
    calls = []
    handle = model.first.router.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(AssertionError):
        prune_experts(model, keep=3, data=x)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    handle.remove()
    calls.clear()
    model(x)
    assert not calls


@pytest.mark.parametrize("router", sorted(WITHOUT_ROWS))
def test_routers_without_rows_are_refused_by_name(router, x):
    made = layer(router)
    with pytest.raises(ConfigError, match=r"the layer has a \w+Router, which assigns experts by a fixed rule"):
        prune_experts(made, keep=1 if router in SPLIT else 4, data=x)


def test_other_experts_and_shared_parameters_are_refused(x):
    made = layer()
    made.experts.register_buffer("scale", torch.ones(6))
    with pytest.raises(ConfigError, match=r"StackedMLP experts; surgery knows those of expert='mlp', 'glu' and 'res"):
        prune_experts(made, keep=4, data=x)
    model = Two()
    model.second = copy.deepcopy(model.first)
    model.second.experts.w_in = model.first.experts.w_in
    with pytest.raises(ConfigError, match=r"'first' shares 'w_in' with another layer"):
        prune_experts(model, keep=3, data=x)
    with pytest.raises(ConfigError, match=r"Linear has no MoELayer"):
        prune_experts(nn.Linear(D, D), keep=3, data=x)


def test_a_layer_that_stands_in_two_places_is_operated_on_once(x):
    model = nn.Sequential(layer(), layer())
    model[1] = model[0]
    report = prune_experts(model, keep=3, data=x)
    assert [(site.before, site.after) for site in report.layers] == [(6, 3)]

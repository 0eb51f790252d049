"""The cache of answers: what it knows again, what it forgets, and that nobody can spoil it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import moezoo
from moezoo.compress import CachedMoE, quantize
from moezoo.errors import ConfigError
from moezoo.moe import MoELayer


class Counted(nn.Module):
    """Counts its calls; answers with a mapping that holds a tuple."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("offset", torch.zeros(4))
        self.scale = 1.0
        self.shifts = [0.0, 1.0]
        self.loose = torch.ones(4)  # no buffer
        self.act = torch.relu
        object.__setattr__(self, "calls", [])

    def forward(self, x, *, twice=False):
        self.calls.append(x)
        y = self.act(self.layer(x)) * self.scale * self.loose + self.offset + self.shifts[0]
        return {"sum": y.sum(), "parts": (y, 2 * y if twice else y), "note": ["plain"]}


@pytest.fixture
def cached():
    torch.manual_seed(0)
    return CachedMoE(Counted().eval(), max_entries=3)


def test_a_hit_gives_an_equal_tensor_of_the_same_content_and_computes_nothing(cached):
    x = torch.randn(2, 4)
    first, again = cached(x), cached(x.clone())
    assert len(cached.module.calls) == 1
    for a, b in zip((first["sum"], *first["parts"]), (again["sum"], *again["parts"]), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
        assert not a.requires_grad
        assert not b.requires_grad
    assert again["note"] == ["plain"]
    info = cached.cache_info()
    assert (info.hits, info.misses, info.passed, info.entries) == (1, 1, 0, 1)
    assert info.bytes == 4 + 2 * 32


def test_callers_cannot_damage_what_is_kept(cached):
    x = torch.randn(2, 4)
    first = cached(x)
    wanted = first["parts"][0].clone()
    first["parts"][0].zero_()
    first["note"].append("spoilt")
    second = cached(x)
    second["parts"][0].zero_()
    second.pop("sum")
    third = cached(x)
    assert torch.equal(third["parts"][0], wanted)
    assert third["note"] == ["plain"]
    assert "sum" in third


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x.double(),
        lambda x: x.reshape(4, 2, 1).reshape(2, 2, 2),
        lambda x: x.flip(0),
        lambda x: x + torch.tensor(1e-7),
        lambda x: x.to(torch.bfloat16),
    ],
)
def test_another_type_shape_or_value_is_another_input(other):
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    cached, x = CachedMoE(Sum().eval()), torch.arange(8.0).reshape(2, 4) * 0
    cached(x)
    changed = other(torch.zeros(2, 4)) if other(x).dtype != x.dtype or other(x).shape != x.shape else other(x + 1)
    got = cached(changed)
    assert cached.cache_info().hits == 0
    assert got.dtype == changed.dtype


def test_arguments_and_autocast_are_part_of_the_input(cached):
    x = torch.randn(2, 4)
    cached(x)
    assert not torch.equal(cached(x, twice=True)["parts"][1], cached(x)["parts"][1])
    with torch.autocast("cpu", torch.bfloat16):
        rough = cached(x)["sum"]
    assert not torch.equal(cached(x=x)["sum"], rough)
    assert len(cached.module.calls) == 4
    cached(x, twice=object())
    assert cached.cache_info().passed == 1


def _step(module, **options):
    optimizer = torch.optim.AdamW(module.parameters(), **options)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


CHANGES = {
    "optimizer": _step,
    "fused optimizer": lambda m: _step(m, fused=True),  # torch does not count its writes
    "in place": lambda m: m.layer.weight.detach().add_(0.5),
    "load_state_dict": lambda m: m.load_state_dict({k: v + 0.25 for k, v in m.state_dict().items()}),
    "buffer": lambda m: m.offset.add_(1.0),
    "to": lambda m: m.double().float(),
    "new parameter": lambda m: setattr(m.layer, "weight", nn.Parameter(m.layer.weight.detach().clone() * 2)),
    "new memory": lambda m: setattr(m.layer.weight, "data", m.layer.weight.data * 2),
    "new module": lambda m: setattr(m, "layer", nn.Linear(4, 4)),
    "setting": lambda m: setattr(m, "scale", 3.0),
    "setting in a list": lambda m: m.shifts.__setitem__(0, 2.0),
    "function": lambda m: setattr(m, "act", torch.sigmoid),
    "loose tensor": lambda m: m.loose.mul_(2.0),
    "new loose tensor": lambda m: setattr(m, "loose", torch.full((4,), 3.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_module_drops_everything(cached, change):
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    cached(x), cached(y)
    CHANGES[change](cached.module)
    cached.eval()
    assert cached.cache_info().entries == 2  # they go when next looked for
    got = cached(x)
    assert cached.cache_info() == (0, 3, 0, 1, 68)
    with torch.no_grad():
        assert torch.equal(got["parts"][0], cached.module(x)["parts"][0])


def test_in_training_with_gradients_and_while_recording_it_is_as_if_there_was_none(cached):
    x = torch.randn(2, 4)
    cached(x)
    cached.train()
    cached(x)["sum"].backward()
    assert cached.module.layer.weight.grad is not None
    cached.eval()
    wanting = x.clone().requires_grad_()
    cached(wanting)["sum"].backward()
    assert wanting.grad is not None
    with torch.no_grad():
        cached(wanting)
    cached.module.layer.train()
    cached(x)
    cached.eval()
    assert cached.cache_info()[:3] == (1, 1, 3)
    layer = CachedMoE(MoELayer(8, num_experts=2, hidden_dim=16).eval())
    tokens = torch.randn(5, 8)
    layer(tokens)
    with moezoo.record_routing(layer) as records:
        layer(tokens)
        layer(tokens)
    assert len(records) == 2
    layer(tokens)
    assert layer.cache_info()[:3] == (1, 1, 2)
    heard = []
    listening = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(module))
    layer(tokens)
    listening.remove()
    assert layer.module in heard


def test_a_hook_of_the_module_may_give_way_to_another():
    module = nn.Linear(4, 4).eval()
    hook = module.register_forward_hook(lambda *call: 2 * call[-1])
    cached, x = CachedMoE(module), torch.randn(2, 4)
    cached(x)
    hook.remove()
    module.register_forward_hook(lambda *call: 3 * call[-1])
    assert torch.equal(cached(x), module(x))


@pytest.mark.filterwarnings("ignore")
def test_transformed_and_traced_calls_pass():
    cached = CachedMoE(nn.Linear(4, 4).eval())
    x, other = torch.randn(3, 2, 4), torch.randn(2, 4)
    cached(x[0])
    torch.testing.assert_close(torch.func.vmap(cached)(x), cached.module(x))
    traced = torch.jit.trace(cached, x[0], check_trace=False)
    torch.testing.assert_close(traced(other), cached.module(other))
    assert cached.cache_info()[:3] == (0, 1, 2)


def test_inference_mode_and_copies(cached):
    x = torch.randn(2, 4)
    with torch.inference_mode():
        cached(x)
    assert not cached(x)["sum"].is_inference()
    with torch.inference_mode():
        cached(x)
    assert cached.cache_info()[:2] == (2, 1)
    for twin in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert twin.cache_info() == (0, 0, 0, 0, 0)
        assert torch.equal(twin(x)["sum"], cached(x)["sum"])
    with torch.inference_mode():
        made_there = CachedMoE(nn.Linear(4, 4).eval())
    made_there(x)
    made_there(x)
    assert made_there.cache_info()[:3] == (0, 0, 2)


def test_whole_models_and_quantised_ones_are_cached():
    torch.manual_seed(0)
    model = moezoo.create_model("diff_moe/digits").eval()
    cached, images = CachedMoE(model), torch.rand(2, *model.pretrained_cfg["input_size"])
    first, again = cached(images), cached(images)
    assert cached.cache_info().hits == 1
    assert type(first) is type(again)
    assert torch.equal(first["logits"], again["logits"])
    quantize(model)
    assert not torch.equal(cached(images)["logits"], first["logits"])
    assert cached.cache_info().hits == 1


class Model:
    """What the cache has to be, in the simplest words: the last answers in order of use."""

    def __init__(self, max_entries, max_bytes):
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self.kept, self.hits, self.misses = OrderedDict(), 0, 0

    def ask(self, key, size):
        if key in self.kept:
            self.hits += 1
            self.kept.move_to_end(key)
            return
        self.misses += 1
        if self.max_bytes is None or size <= self.max_bytes:
            self.kept[key] = size
        while len(self.kept) > self.max_entries or (self.max_bytes or sum(self.kept.values())) < sum(
            self.kept.values()
        ):
            self.kept.popitem(last=False)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["step", "train", "clear"])), max_size=30),
    st.integers(1, 4),
    st.sampled_from([None, 1, 20, 40, 100]),
)
def test_any_sequence_of_uses_keeps_what_was_used_last(operations, max_entries, max_bytes):
    module = nn.Linear(2, 1).eval()
    cached, simple = CachedMoE(module, max_entries, max_bytes), Model(max_entries, max_bytes)
    passed = 0
    for operation in operations:
        if operation == "step":
            with torch.no_grad():
                module.weight.add_(1.0)
            simple.kept.clear()
            cached(torch.zeros(1, 2))  # looked for, so that both know of it
            simple.ask("zeros", 4)
        elif operation == "train":
            cached.train()(torch.ones(1, 2))
            cached.eval()
            passed += 1
        elif operation == "clear":
            cached.clear()
            simple.kept.clear()
        else:
            x = torch.full((operation + 1, 2), float(operation + 1))
            with torch.no_grad():
                assert torch.equal(cached(x), module(x))
            simple.ask(operation, 4 * (operation + 1))
        info = cached.cache_info()
        assert info == (simple.hits, simple.misses, passed, len(simple.kept), sum(simple.kept.values()))


def test_threads_share_it_without_harm(cached):
    inputs = [torch.full((1, 4), float(i)) for i in range(5)]
    with torch.no_grad():
        wanted = [cached.module(x)["parts"][0] for x in inputs]
    wrong = []

    def work(seed):
        for i in torch.randint(5, (60,), generator=torch.Generator().manual_seed(seed)).tolist():
            if not torch.equal(cached(inputs[i])["parts"][0], wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    info = cached.cache_info()
    assert not wrong
    assert info.hits + info.misses == 240
    assert info.entries == 3
    assert info.bytes == 3 * (4 + 2 * 16)


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match="max_entries=0"):
        CachedMoE(nn.Identity(), 0)
    with pytest.raises(ConfigError, match="max_bytes=-1"):
        CachedMoE(nn.Identity(), max_bytes=-1)
    with pytest.raises(ConfigError, match="module="):
        CachedMoE(len)

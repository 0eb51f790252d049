"""Which blocks ``where`` chooses, and how it refuses."""

import pytest
import torch

from moezoo import inject_moe
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.site import Block
from moezoo.backbones.where import select_blocks
from moezoo.errors import ConfigError, InjectionError

PLAIN = [Block(f"blocks.{i}", 0, "blocks", i) for i in range(12)]
STAGED = [Block(f"layer{s + 1}.{i}", s, f"layer{s + 1}", i) for s, n in enumerate((3, 4, 6, 3)) for i in range(n)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, [11]),
        ("last", [11]),
        ("all", list(range(12))),
        ("last_half", [6, 7, 8, 9, 10, 11]),
        (3, [3]),
        (-1, [11]),
        (range(2), [0, 1]),
        ([9, -2], [9, 10]),
        ("blocks.1*", [1, 10, 11]),
        (["blocks.0", 5], [0, 5]),
        ((0, 2), [2]),
    ],
)
def test_places_in_a_plain_backbone(where, expected):
    assert select_blocks(PLAIN, where) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, [13, 14, 15]),
        ("last_stage", [13, 14, 15]),
        ("last", [15]),
        ("layer3", list(range(7, 13))),
        ("layer4", [13, 14, 15]),
        ([("layer3", 5), ("layer4", 0)], [12, 13]),
        ([(3, 0), (3, -1)], [13, 15]),
        ([(-1, 1)], [14]),
        ([["layer4", 1]], [14]),
    ],
)
def test_places_in_a_staged_backbone(where, expected):
    assert select_blocks(STAGED, where) == expected


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (12, "out of range"),
        (-13, "-12 to 11"),
        ([11, 11], "twice"),
        ([11, -1], "twice"),
        ("blokcs.3", "Did you mean"),
        ("last_stage", "no stages"),
        ([], "not allowed"),
        (1.5, "not allowed"),
        (True, "not an index"),
        ([None], "not an index"),
        ((3, 0), "stage 3 does not exist"),
        ((0, 12), "blocks 0 to 11"),
        ("nothing*", "matches no block"),
    ],
)
def test_refused_places_say_what_there_is(where, words):
    with pytest.raises(InjectionError, match=words):
        select_blocks(PLAIN, where)


@pytest.mark.parametrize(
    ("where", "config", "error"),
    [
        (99, {}, InjectionError),
        ("nothing*", {}, InjectionError),
        ([0, 0], {}, InjectionError),
        ("last", {"num_experts": 0}, ConfigError),
        ("last", {"num_experts": 1.5}, ConfigError),
        ("last", {"num_experts": True}, ConfigError),
        ("last", {"num_experts": -1}, ConfigError),
        ("last", {"expert_k": 5}, ConfigError),
        ("last", {"expert_k": 0}, ConfigError),
        ("last", {"num_expert": 4}, ConfigError),
        ("last", {"num_experts": [4, 4]}, ConfigError),
        ("last", {"num_heads": 7}, ConfigError),
        ("last", {"router": "sofmax_topk"}, LookupError),
        ("last", {"expert": "mpl"}, LookupError),
    ],
)
def test_a_refused_injection_leaves_the_model_as_it_was(tiny_vit, where, config, error):
    keys, hooks = list(tiny_vit.state_dict()), [len(m._forward_hooks) for m in tiny_vit.modules()]
    with pytest.raises(error):
        inject_moe(tiny_vit, where, **config)
    assert list(tiny_vit.state_dict()) == keys
    assert [len(m._forward_hooks) for m in tiny_vit.modules()] == hooks
    assert not adapters_of(tiny_vit)


def test_a_second_injection_is_refused(tiny_vit):
    inject_moe(tiny_vit, -1)
    keys = list(tiny_vit.state_dict())
    with pytest.raises(InjectionError, match=r"already has an adapter.*blocks\.5"):
        inject_moe(tiny_vit, 0)
    assert list(tiny_vit.state_dict()) == keys


def test_expert_counts_by_position(tiny_vit):
    inject_moe(tiny_vit, [0, 5], num_experts=[2, 8], mlp_ratio=1.0)
    assert [a.moe.num_experts for a in adapters_of(tiny_vit).values()] == [2, 8]
    assert tiny_vit.entity_moe_config["num_experts"] == [2, 8]


def test_expert_counts_by_block_index(tiny_vit):
    inject_moe(tiny_vit, [1, 3], num_experts={1: 3, 3: 2}, mlp_ratio=1.0)
    assert [a.moe.num_experts for a in adapters_of(tiny_vit).values()] == [3, 2]
    assert tiny_vit.entity_moe_config["inject_layers"] == [1, 3]


def test_a_model_of_your_own_is_injected_by_its_traced_blocks():
    class MyBlock(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = torch.nn.LayerNorm(32), torch.nn.Linear(32, 32)

        def forward(self, x):
            return x + self.fc(self.norm(x))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = torch.nn.Conv2d(3, 32, 8, 8)
            self.encoder = torch.nn.ModuleList(MyBlock() for _ in range(3))
            self.head = torch.nn.Linear(32, 5)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            for block in self.encoder:
                x = block(x)
            return self.head(x.mean(1))

    net, images = Net().eval(), torch.randn(2, 3, 32, 48)
    before = net(images)
    with pytest.raises(InjectionError, match="input_size"):
        inject_moe(net, "last")
    inject_moe(net, "last", input_size=(3, 32, 48))
    assert list(adapters_of(net)) == ["encoder.2.entity_moe"]
    assert adapters_of(net)["encoder.2.entity_moe"].site.grid == (4, 6)
    assert torch.equal(net(images), before)


def test_an_adapter_that_reaches_no_output_is_refused():
    class Dead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            make = lambda: torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.BatchNorm2d(4))  # noqa: E731
            self.blocks = torch.nn.ModuleList([make(), make()])
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            y = self.blocks[0](x)
            self.blocks[1](y)
            return self.head(y.mean((2, 3)))

    net = Dead()
    with pytest.raises(InjectionError, match="no effect"):
        inject_moe(net, "blocks.1", input_size=(4, 8, 8))
    assert not adapters_of(net)

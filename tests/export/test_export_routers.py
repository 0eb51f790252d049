"""Every router in every format, at small size: other inputs, other batches, experts that tracing did not reach."""

import pytest
import torch
from torch import nn

from moezoo.export import export_model
from moezoo.export.formats import FORMATS
from moezoo.moe import MoELayer, RoundedCapacity
from moezoo.moe.routers import routers

NAMES = list(routers)
ARGS = {
    "group_limited": {"num_groups": 2},
    "hash": {"key": "token_type"},
    "score_threshold": {"own_score": True},
    "top_p": {"p": 0.5},
}
SPLIT = {"fixed_cells", "random_fraction", "score_threshold"}
"""Between two experts, which tracing may both reach."""
BY_TYPE = {"hash", "modality"}
ALL_EXPERTS = {"dense_softmax", "expert_choice", "soft"}
"""Whatever is traced, every expert computes."""
BY_POSITION = {"random"}
"""A token's experts go by its place, whatever it holds."""
NOT_EXPORTABLE: dict[tuple[str, str], str] = {}
"""(router, format) and why; a router that begins to work, or stops, fails its test."""
MORE = [
    {"capacity_factor": 0.7},
    {"capacity_factor": 0.7, "capacity_rule": "vmoe"},
    {"capacity_factor": 0.7, "capacity_rule": "tutel"},
    {"capacity_factor": 0.7, "capacity_rule": "megablocks"},
    {"capacity_factor": 0.7, "capacity_rule": "lucidrains"},
    {"capacity_factor": 0.7, "capacity_rule": RoundedCapacity("round")},
    {
        "capacity_factor": 0.7,
        "capacity_rule": RoundedCapacity("round", None),
        "group_size": 7,
        "dispatch_dtype": "bfloat16",
    },
    {"expert": "glu", "activation": "silu"},
    {"activation": "gelu_tanh"},
]


class Typed(nn.Module):
    """A layer whose token types follow from the tokens, since an exported model has one input."""

    def __init__(self, layer: MoELayer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, token_type=(x[..., 0] > 0).long())


def build(router: str, **args) -> nn.Module:
    """A layer with spread weights: routers start near zero, where mistakes hide."""
    top_k = 6 if router in ("dense_softmax", "soft") else 2
    experts, top_k = (2, 1) if router in SPLIT else (6, top_k)
    layer = MoELayer(
        8, num_experts=experts, top_k=top_k, router=router, router_args=ARGS.get(router), hidden_dim=5, **args
    )
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    return Typed(layer) if router in BY_TYPE else layer


def check(model, path, format, router):
    exported = export_model(model, path / f"layer.{format}", format=format, input_size=(5, 8))
    assert exported.parity.pairs == (2 if router in SPLIT else 6)
    if router in ALL_EXPERTS:
        assert exported.parity.pairs_traced == 6
    elif router not in BY_POSITION | SPLIT:
        assert exported.parity.pairs_new > 0
    run, model = FORMATS[format].load(exported.file), model.eval()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 5, 8)
        with torch.no_grad():
            expected = model(x)
        assert (run(x)[0] - expected).abs().max() <= FORMATS[format].limit * expected.abs().max()


OWN_OPERATORS = ("softmax_topk", "expert_choice", "threshold", "soft", "modality")
"""Routers that between them need what the others do; every router's program is exported in its own tests."""


@pytest.mark.parametrize("format", ["pt2", "onnx"])
@pytest.mark.parametrize(
    "router", [pytest.param(name, marks=() if name in OWN_OPERATORS else pytest.mark.slow) for name in NAMES]
)
def test_every_router_is_exported_but_for_those_listed(router, format, tmp_path):
    model = build(router)
    if (router, format) in NOT_EXPORTABLE:
        with pytest.raises(Exception, match=NOT_EXPORTABLE[router, format]):
            check(model, tmp_path, format, router)
    else:
        check(model, tmp_path, format, router)


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("router", "args"),
    [
        ("bpr_topk", {"capacity_factor": 0.7}),
        ("softmax_topk", {"expert": "glu", "activation": "quick_gelu", "num_shared_experts": 2}),
        *(pytest.param("softmax_topk", args, marks=pytest.mark.slow) for args in MORE),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_capacity_rules_and_kinds_of_experts_are_exported(router, args, format, tmp_path):
    check(build(router, **args), tmp_path, format, router)


def test_equal_logits_go_to_the_lowest_index_in_onnx_too(tmp_path):
    model = build("softmax_topk")
    with torch.no_grad():
        model.router.weight.copy_(model.router.weight[:2].repeat(3, 1))  # experts 0, 2, 4 and 1, 3, 5 always tie
    check(model, tmp_path, "onnx", "random")

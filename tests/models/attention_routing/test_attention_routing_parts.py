"""Encoder, crops, aggregators and the dense twin."""

import pytest
import torch
from attention_routing_toys import asked, images, tiny

import moezoo
from moezoo.errors import ConfigError, RegistrationError
from moezoo.models.attention_routing import Aggregator, crop_cells
from moezoo.models.attention_routing.aggregators import build_aggregator
from moezoo.models.attention_routing.costs import attention_macs, big_macs, encoder_macs, small_macs
from moezoo.parts import aggregators

PRESETS = [f"attention_routing/{n}" for n in ("cifar10", "cifar100", "digits", "cluttered_digits")]


def macs_by_module(name, budget=None, **more):
    torch.manual_seed(0)
    model = moezoo.create_model(name, **more)
    if budget is not None:
        model.set_budget(budget)
    flops = moezoo.measure.flops(model, torch.randn(1, *model.pretrained_cfg["input_size"]))
    return {name: count // 2 for name, count in flops.by_module.items()}, model


@pytest.mark.parametrize("name", PRESETS)
def test_costs_by_formula_are_those_counted_and_the_encoder_is_light(name):
    macs, model = macs_by_module(name, budget=1.0)
    config = model.config
    assert macs["encoder"] == encoder_macs(config)
    assert macs["attention"] == attention_macs(config)
    assert macs["moe"] == config.num_cells * big_macs(config)
    assert macs_by_module(name, budget=0.0)[0]["moe"] == config.num_cells * small_macs(config)
    assert big_macs(config) > 20 * small_macs(config)
    assert macs["encoder"] + macs["attention"] < 0.15 * config.num_cells * big_macs(config)


def test_the_documents_mlps_on_cifar10():
    config = moezoo.model_config("attention_routing/cifar10")
    assert big_macs(config) == 192 * 512 + 2 * 512**2 + 512 * 128
    assert small_macs(moezoo.model_config("attention_routing/cifar10", small_input="crop")) == 192 * 64 + 64 * 128
    macs, _ = macs_by_module("attention_routing/cifar10")
    assert macs["encoder"] < 1_000_000
    assert macs["aggregator"] == 16 * 128 * 256
    assert macs["head"] == 256 * 128 + 128 * 10


@pytest.mark.parametrize("name", PRESETS)
def test_the_dense_twin_executes_as_much_as_the_model_at_its_target(name):
    twin, _ = macs_by_module(f"{name}.dense")
    routed, model = macs_by_module(name)
    at_target = routed[""] - routed["moe"]
    ratio = model.config.ratio
    at_target += model.config.num_cells * (ratio * big_macs(model.config) + (1 - ratio) * small_macs(model.config))
    assert twin[""] == pytest.approx(at_target, rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_controls_build_nothing_that_nobody_reads(name):
    full, model = macs_by_module(f"{name}.full_compute")
    if model.config.aggregator in ("concat", "mean"):
        assert "encoder" not in full
        assert model.encoder is model.attention is None
    _, model = macs_by_module(f"{name}.cheap_compute")
    assert model.big is None
    assert model.encoder is not None


@pytest.mark.parametrize("grid", [1, 2, 4, 8, 16, (2, 4)])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_any_grid_that_divides_any_image(grid, layers):
    for size in (16, (48, 32)):
        model = tiny(img_size=size, patch_grid_size=grid, encoder_layers=layers)
        x = torch.randn(2, 2, *model.config.sides)
        output = asked(model, x)
        assert output.attention_scores.shape == (2, model.grid[0] * model.grid[1])
        assert model.encoder(x).shape[2:] == model.grid
        assert encoder_macs(model.config) == moezoo.measure.flops(model.encoder, x).macs // 2


def test_scores_belong_to_their_cells():
    """Turning the image turns the scores; the original's averaged the map first and could not tell places apart."""
    model = tiny(encoder_layers=1).eval()  # whose patches do not overlap
    x = images()
    scores = model(x, return_attention=True).attention_scores.view(4, 4, 4)
    turned = torch.cat([x[:, :, 4:], x[:, :, :4]], dim=2)
    torch.testing.assert_close(
        model(turned, return_attention=True).attention_scores.view(4, 4, 4), scores.roll(-1, dims=1)
    )
    assert scores.std() > 0


@pytest.mark.parametrize("context", [0, 3])
def test_crops_are_the_image_at_the_cell_with_its_margin(context):
    x = images(2)
    crops = crop_cells(x, (4, 2), context)
    padded = torch.nn.functional.pad(x, (context,) * 4)
    for n in range(8):
        row, column = divmod(n, 2)
        want = padded[:, :, 4 * row : 4 * row + 4 + 2 * context, 8 * column : 8 * column + 8 + 2 * context]
        assert torch.equal(crops[:, n], want)


@pytest.mark.parametrize("name", ["concat", "mean", "weighted_mean", "attention_pool"])
def test_aggregators_take_embeddings_together_or_apart(name):
    torch.manual_seed(0)
    aggregator = build_aggregator(name, 7, 16, 12)
    high, low, scores = torch.randn(3, 16, 7), torch.randn(3, 16, 7), torch.rand(3, 16)
    mask = (scores > 0.5).float().requires_grad_()
    want = aggregator(torch.where(mask[..., None] == 1, high, low), scores)
    out = aggregator.forward_split(high, low, mask, scores)
    assert out.shape == (3, 12)
    torch.testing.assert_close(out, want)
    out.sum().backward()
    assert (mask.grad != 0).any()
    order = torch.randperm(16)
    moved = aggregator(high[:, order], scores[:, order])
    assert torch.allclose(moved, aggregator(high, scores), atol=1e-5) == (name != "concat")


def test_weighted_mean_goes_by_the_scores():
    aggregator = build_aggregator("weighted_mean", 7, 4, 5)
    tokens, scores = torch.randn(1, 4, 7), torch.tensor([[0.6, 0.0, 0.2, 0.0]])
    want = aggregator.proj(0.75 * tokens[:, 0] + 0.25 * tokens[:, 2]).relu()
    torch.testing.assert_close(aggregator(tokens, scores), want)
    assert aggregator(tokens, scores * 0).isfinite().all()


def test_an_aggregator_of_ones_own():
    @moezoo.register_aggregator("loudest_cell")
    class LoudestCell(Aggregator):
        needs_scores = True

        def __init__(self, dim, num_cells, out_dim):
            super().__init__(dim, num_cells, out_dim)
            self.proj = torch.nn.Linear(dim, out_dim)

        def forward(self, tokens, scores=None):
            best = scores.argmax(1)
            return self.proj(tokens[torch.arange(len(tokens)), best])

    try:
        model = tiny(aggregator="loudest_cell")
        assert type(model.aggregator) is LoudestCell
        loss = model(images()).square().sum() + moezoo.aux_loss(model)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        assert tiny(aggregator="loudest_cell", compute="full").attention is not None
        with pytest.raises(RegistrationError, match="already registered"):
            moezoo.register_aggregator("loudest_cell")(LoudestCell)
    finally:
        del aggregators._items["loudest_cell"]
    with pytest.raises(ConfigError, match="loudest_cell"):
        tiny(aggregator="loudest_cell")

"""The model routes cells: hard, exactly as many as the mask says, and learns where."""

import pytest
import torch
from attention_routing_toys import asked, images, same_weights, tiny
from torch.nn import functional as F

import moezoo
from moezoo.errors import ConfigError, InputError, NonFiniteError

MODES = ("learnable_threshold", "sigmoid_gate", "gumbel", "top_fraction")


def rows_of(module):
    """A list to which every call of ``module`` adds its number of rows."""
    rows = []
    module.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    return rows


def test_answers_logits_or_a_mapping_of_what_is_asked_for():
    model, x = tiny().eval(), images()
    logits = model(x)
    assert logits.shape == (4, 3)
    output = asked(model, x)
    assert set(output) == {"logits", "attention_scores", "routing_mask", "router_stats"}
    assert torch.equal(output["logits"], logits)
    scores, mask = output.attention_scores, output.routing_mask
    assert scores.shape == mask.shape == (4, 16)
    assert ((scores > 0) & (scores < 1)).all()
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    stats = output.router_stats
    assert stats["routing_ratio"] == mask.mean()
    assert torch.equal(stats["per_image"], mask.mean(1))
    assert torch.equal(mask, (scores >= stats["threshold"]).float())
    assert "attention_scores" not in model(x, return_stats=True)
    assert set(model(x, return_attention=True)) == {"logits", "attention_scores"}


@pytest.mark.parametrize("mode", MODES)
def test_only_the_cells_of_the_mask_meet_the_big_mlp(mode):
    model, x = tiny(router_mode=mode), images()
    big, small = rows_of(model.big), rows_of(model.small)
    for train in (True, False):
        big.clear(), small.clear()
        mask = asked(model.train(train), x).routing_mask
        assert ((mask == 0) | (mask == 1)).all()
        assert sum(big) == mask.sum() > 0
        assert sum(small) == (1 - mask).sum() > 0


def test_budgets_of_one_and_nothing_are_full_and_cheap_compute_bit_for_bit():
    x = images()
    for more in ({}, {"aggregator": "weighted_mean", "big_input": "both"}, {"small_input": "crop"}):
        routed = tiny(**more).eval()
        for budget, control in ((1.0, "full"), (0.0, "cheap")):
            plain = same_weights(routed, tiny(seed=9, compute=control, **more)).eval()
            routed.set_budget(budget)
            rows = rows_of(routed.small if budget else routed.big)
            assert torch.equal(routed(x), plain(x))
            assert not rows
            mask = asked(plain, x).routing_mask
            assert (mask == budget).all()
            assert torch.equal(asked(routed, x).routing_mask, mask)


def test_training_and_evaluation_take_identical_routes():
    model, x = tiny(dropout=0.5), images(8)
    masks = [asked(model.train(train), x).routing_mask for train in (True, False)]
    assert torch.equal(*masks)
    assert torch.equal(asked(model.eval(), x[3:4]).routing_mask, masks[0][3:4])


def test_threshold_and_scores_learn_from_routed_and_from_unrouted_cells():
    model, x = tiny(), images()
    for budget in (1.0, 0.0, None):
        model.set_budget(budget)
        output = asked(model, x)
        output.attention_scores.retain_grad()
        model.zero_grad()
        output.logits.square().sum().backward()
        assert (output.attention_scores.grad != 0).all()
        if budget is None:
            assert model.moe.router.threshold_logit.grad != 0


def test_the_threshold_moves_to_where_compute_helps():
    """A mask that more of lowers the loss pulls the threshold down, and the other way round."""
    model, x = tiny(), images()
    for sign in (1, -1):
        model.zero_grad()
        (sign * asked(model, x).routing_mask.mean()).backward()
        assert model.moe.router.threshold_logit.grad * sign < 0


def test_temperature_controls_the_slope():
    slopes = []
    for temperature in (0.1, 1.0, 10.0):
        model = tiny(temperature=temperature)
        asked(model, images()).routing_mask.mean().backward()
        slopes.append(-model.moe.router.threshold_logit.grad)
    assert slopes[0] > slopes[1] > slopes[2] > 0


def test_the_dial_gives_each_image_its_best_cells():
    model, x = tiny().eval(), images()
    best = asked(model, x).attention_scores.sort(descending=True, stable=True).indices
    flops = []
    for budget in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
        model.set_budget(budget)
        mask = asked(model, x).routing_mask
        count = -int(-budget * 16 // 1)
        assert (mask.sum(1) == count).all()
        assert (mask.gather(1, best)[:, :count] == 1).all()
        flops.append(moezoo.measure.flops(model, x).executed)
    assert flops == sorted(set(flops))
    scores = asked(model, x).attention_scores
    model.set_threshold(0.4)
    output = asked(model, x)
    assert torch.equal(output.routing_mask, (scores >= 0.4).float())
    assert output.router_stats["threshold"] == pytest.approx(0.4)
    model.set_threshold(None)
    assert torch.equal(asked(model, x).routing_mask, asked(tiny().eval(), x).routing_mask)


@pytest.mark.parametrize("aggregator", ["concat", "weighted_mean"])
def test_analytic_flops_are_those_counted(aggregator):
    for compute in ("attention", "random", "center"):
        model, x = tiny(aggregator=aggregator, compute=compute), images()
        for budget in (None, 0.0, 0.3, 1.0):
            model.set_budget(budget)
            flops = moezoo.measure.flops(model, x)
            assert flops.analytic == flops.executed


def test_random_cells_are_as_many_and_repeat_in_evaluation():
    model, x = tiny(compute="random"), images()
    drawn = [asked(model, x).routing_mask for _ in range(2)]
    assert all((mask.sum(1) == 4).all() for mask in drawn)
    assert not torch.equal(*drawn)
    model.eval()
    mask = asked(model, x).routing_mask
    assert torch.equal(asked(model, x).routing_mask, mask)
    assert torch.equal(asked(model, x[2:]).routing_mask, mask[2:])
    assert len(mask.unique(dim=0)) > 1


def test_central_cells_are_the_same_of_every_image():
    mask = asked(tiny(compute="center").eval(), images()).routing_mask
    assert torch.equal(mask.view(4, 4, 4), F.pad(torch.ones(4, 2, 2), (1, 1, 1, 1)))


def test_no_routing_adds_both_mlps():
    model, x = tiny(compute="none", aggregator="mean").eval(), images()
    only = [same_weights(model, tiny(compute=c, aggregator="mean")).eval() for c in ("full", "cheap")]
    tokens = [m._cells(x, None, None)[1] for m in (model, *only)]
    torch.testing.assert_close(tokens[0], tokens[1] + tokens[2])


def test_given_patches_are_what_the_big_mlp_sees():
    from moezoo.models.attention_routing import crop_cells

    model, x = tiny().eval(), images()
    patches = crop_cells(x, model.grid, 1)
    assert patches.shape == (4, 16, 2, 6, 6)
    assert torch.equal(model(x, patches), model(x))
    assert torch.equal(model(x, patches.flatten(2)), model(x))
    assert not torch.equal(model(x, patches * 2), model(x))
    for wrong in (patches[:2], patches[:, :3], patches[..., 1:], patches.long(), "patches"):
        with pytest.raises(InputError, match=r"patches must be floating point \(4, 16, 2, 6, 6\)"):
            model(x, wrong)


def test_images_of_other_channels_or_size_are_refused():
    model = tiny()
    for shape, message in (((2, 3, 16, 16), "channels"), ((2, 2, 32, 32), "img_size"), ((2, 16, 16), "tensor of")):
        with pytest.raises(InputError, match=message):
            model(torch.zeros(shape))


@pytest.mark.parametrize("compute", ["attention", "random", "center"])
def test_one_image_and_none_and_any_budget_leave_no_parameter_without_a_gradient(compute):
    model = tiny(compute=compute)
    for batch, budget in ((1, None), (2, 0.0), (2, 1.0), (0, None)):
        model.zero_grad()
        model.set_budget(budget)
        output = asked(model, images(batch))
        (output.logits.square().sum() + moezoo.aux_loss(model)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert (output.logits.shape, output.routing_mask.shape) == ((batch, 3), (batch, 16))


def test_autocast_and_what_is_not_finite():
    model, x = tiny(big_input="both", aggregator="attention_pool"), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (model(x).float().square().sum() + moezoo.aux_loss(model)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        model(x)


@pytest.mark.parametrize("variant", ["full", "cheap", "none", "dense"])
def test_a_dial_on_a_control_without_routes_is_an_error(variant):
    model = tiny(**{"dense": True} if variant == "dense" else {"compute": variant})
    with pytest.raises(ConfigError, match="no router"):
        model.set_budget(0.5)
    with pytest.raises(ConfigError, match="no router"):
        model.set_threshold(0.5)
    assert model.routing_ratio == {"full": 1.0, "cheap": 0.0}.get(variant)


@pytest.mark.parametrize("value", [-0.1, 1.1, "half", float("nan"), True])
def test_budgets_and_thresholds_out_of_range_are_refused(value):
    model = tiny()
    with pytest.raises(ConfigError, match="budget"):
        model.set_budget(value)
    with pytest.raises(ConfigError, match="threshold"):
        model.set_threshold(value)
    with pytest.raises(ConfigError, match="threshold"):
        model.set_threshold(0.0)


def test_record_routing_places_the_cells():
    model, x = tiny(img_size=(16, 8), patch_grid_size=(4, 2)), images()[..., :8]
    with moezoo.record_routing(model) as records:
        mask = asked(model, x).routing_mask
    assert [(r.name, r.grid, r.prefix_tokens) for r in records] == [("moe", (4, 2), 0)]
    assert torch.equal((records[0].routing.expert_index == 0).view(4, 8), mask == 1)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_learns_where_to_look(mode):
    """One bright cell holds the class, told by its texture; all others are noise."""
    x, y = _textures(96)
    model = tiny(router_mode=mode, in_channels=1, aggregator="mean", budget_anneal=0.3, temperature=0.3, crop_context=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for step in range(100):
        moezoo.moe.set_progress(model, step / 99)
        loss = F.cross_entropy(model(x), y) + moezoo.aux_loss(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    output = asked(model.train(mode == "gumbel"), x)  # whose noise is a part of the share it learns
    assert losses[-1] < 0.5 * losses[0]
    assert (output.logits.argmax(1) == y).float().mean() > 0.8
    assert 0.03 < output.router_stats["routing_ratio"] < 0.5


def _textures(number):
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(number, 1, 16, 16, generator=generator)
    y = torch.arange(number) % 3
    stripes = torch.ones(4, 4)
    stripes[::2] = -1
    board = stripes * torch.tensor([1.0, -1.0, 1.0, -1.0])
    patterns = torch.stack([stripes, stripes.T, board])
    cells = torch.randint(0, 16, (number,), generator=generator)
    for i, cell in enumerate(cells.tolist()):
        row, column = divmod(cell, 4)
        x[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += patterns[y[i]] + 1
    return x, y

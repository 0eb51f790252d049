"""The auxiliary losses: formulas against float64 references, their sum, and how they reach the parameters."""

import copy
import math

import pytest
import torch
from diff_moe_toys import batch, tensors, tiny
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import moezoo
from moezoo.models.diff_moe.losses import alignment_loss, contrastive_loss, same_pairs
from moezoo.moe import Routing, set_aux_mode
from moezoo.moe.routers import build_router

WEIGHTS = {
    "router_z_loss_weight": 0.7,
    "router_balance_loss_weight": 1.3,
    "cross_modal_alignment_weight": 0.4,
    "contrastive_loss_weight": 0.6,
}
TERMS = ("router_z_loss", "router_balance_loss", "cross_modal_loss", "contrastive_loss")


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def naive_contrastive(image, text, scale, positives):
    """In float64, pair by pair."""
    image, text = (F.normalize(t.double(), dim=1) for t in (image, text))
    total = 0.0
    for i, same in enumerate(positives):
        for a, others in ((image[i], text), (text[i], image)):
            scores = [scale * float(a @ b) for b in others]
            log_sum = math.log(sum(math.exp(s) for s in scores))
            total += sum(log_sum - scores[j] for j in same) / len(same)
    return total / (2 * len(positives))


def test_alignment_is_minus_the_mean_cosine():
    image, text = torch.randn(5, 7), torch.randn(5, 7)
    want = -sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(image.double(), text.double(), strict=True)) / 5
    assert alignment_loss(image, text).item() == pytest.approx(want, abs=1e-6)
    assert alignment_loss(image, 3 * image).item() == pytest.approx(-1, abs=1e-6)
    assert alignment_loss(image, -image).item() == pytest.approx(1, abs=1e-6)
    assert -1 <= alignment_loss(image, text) <= 1


def test_contrastive_is_infonce_both_ways_with_several_positives():
    image, text = torch.randn(5, 7), torch.randn(5, 7)
    assert contrastive_loss(image, text, 3.0).item() == pytest.approx(
        naive_contrastive(image, text, 3.0, [[i] for i in range(5)]), abs=1e-5
    )
    groups = [[0, 3], [1], [2, 4], [0, 3], [2, 4]]
    same = torch.zeros(5, 5, dtype=torch.bool)
    for i, group in enumerate(groups):
        same[i, group] = True
    assert contrastive_loss(image, text, 3.0, same).item() == pytest.approx(
        naive_contrastive(image, text, 3.0, groups), abs=1e-5
    )


def test_contrastive_of_what_says_nothing_is_the_log_of_the_batch_and_of_right_pairs_less():
    even = torch.ones(8, 4)
    assert contrastive_loss(even, even, 10.0).item() == pytest.approx(math.log(8), abs=1e-5)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 512, generator=generator), torch.randn(64, 512, generator=generator)
    assert contrastive_loss(x, y, 1.0).item() == pytest.approx(math.log(64), abs=0.05)
    right, wrong = contrastive_loss(x, x, 10.0), contrastive_loss(x, x.roll(1, 0), 10.0)
    assert right < 0.1 < math.log(64) < wrong
    assert contrastive_loss(x[:1], y[:1], 10.0).item() == 0
    assert contrastive_loss(x[:0], y[:0], 10.0).item() == alignment_loss(x[:0], y[:0]).item() == 0


def test_losses_between_features_are_float32_under_autocast():
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(x, y, 5.0), contrastive_loss(x, y, 5.0).float())
    assert contrastive_loss(x.bfloat16(), y.bfloat16(), 5.0).dtype == torch.float32


def test_pairs_are_the_same_by_text_padding_aside_or_by_label():
    text = torch.tensor([[1, 2, 9], [1, 2, 7], [1, 2, 7], [5, 2, 7]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    same = same_pairs(text, mask)
    assert same.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [3, 3]]
    both = same_pairs(text, mask, torch.tensor([0, 1, 1, 0]))
    assert both.int().tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
    assert same_pairs(text, None).nonzero().tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2], [3, 3]]


def test_labels_and_equal_captions_are_positives_of_the_model():
    model, (images, text, mask) = tiny(), batch()
    distinct = model(images, text, mask).contrastive_loss
    assert not torch.equal(model(images, text, mask, labels=torch.tensor([0, 0, 1, 2])).contrastive_loss, distinct)
    assert torch.equal(model(images, text, mask, labels=torch.arange(4)).contrastive_loss, distinct)
    text[1], mask[1] = text[0], mask[0]
    output = model(images, text, mask)
    pooled = output.img_features.detach().mean(1), model.encode_text(text, mask).detach()
    want = naive_contrastive(*pooled, 1 / 0.07, [[0, 1], [0, 1], [2], [3]])
    assert output.contrastive_loss.item() == pytest.approx(want, rel=1e-4)


def test_the_temperature_is_learned_and_bounded():
    model, given = tiny(temperature_init=0.5), batch()
    assert model.scale.item() == pytest.approx(2.0)
    model(*given).router_loss.backward()
    assert model.log_scale.grad != 0
    torch.nn.init.constant_(model.log_scale, 20.0)
    assert model.scale.item() == pytest.approx(100.0)
    assert torch.autograd.grad(model.scale, model.log_scale)[0] > 0, "it may come back"
    assert torch.autograd.grad(-model.scale, model.log_scale)[0] == 0
    assert not tiny(contrastive_loss_weight=0.0).log_scale.requires_grad, "nothing would train it"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(("z", "balance"), [("prob_sq", "kl"), ("logsumexp", "kl_counts"), ("prob_sq", "switch")])
def test_router_loss_is_the_weighted_sum_and_what_aux_loss_says(reduction, z, balance):
    model = tiny(**WEIGHTS, z_loss_type=z, balance_loss_type=balance, layer_reduction=reduction)
    images, text, mask = batch()
    for given, calls in (((images, text, mask), 5), ((images,), 2)):
        with moezoo.record_routing(model) as records:
            output = model(*given)
        assert torch.equal(output.router_loss, moezoo.aux_loss(model))
        total = sum(weight * output[term].item() for weight, term in zip(WEIGHTS.values(), TERMS, strict=True))
        assert output.router_loss.item() == pytest.approx(total, rel=1e-6, abs=1e-6)
        divided = calls if reduction == "mean" else 1
        for term, naive in (("router_z_loss", naive_z[z]), ("router_balance_loss", naive_balance[balance])):
            want = sum(naive(record.routing) for record in records) / divided
            assert output[term].item() == pytest.approx(want, rel=1e-5, abs=1e-6)
            assert len(records) == calls
        assert (output.contrastive_loss > 0) == (len(given) > 1)


def _usage(routing):
    return routing.expert_index.bincount(minlength=4).double() / len(routing.expert_index)


def _kl(share):
    return sum(p * math.log(p * 4) for p in share.tolist() if p > 0)


naive_z = {
    "prob_sq": lambda r: float((r.logits.double().softmax(-1).mean(0) ** 2).mean() * 4),
    "logsumexp": lambda r: float((r.logits.double().exp().sum(-1).log() ** 2).mean()),
}
naive_balance = {
    "kl": lambda r: _kl(r.logits.double().softmax(-1).mean(0)),
    "kl_counts": lambda r: _kl(_usage(r)),
    "switch": lambda r: float(4 * (_usage(r) * r.logits.double().softmax(-1).mean(0)).sum()),
}


def test_each_term_is_reported_even_where_its_weight_is_zero():
    model, given = tiny(**dict.fromkeys(WEIGHTS, 0.0)), batch()
    output, weighted = model(*given), tiny(**WEIGHTS)(*given)
    assert output.router_loss == 0
    for term in TERMS:
        assert output[term] != 0
        torch.testing.assert_close(output[term], weighted[term])


def test_the_documents_functions_of_logits():
    """Even probabilities: 1/E and no divergence; one expert for everything: 1 and log E; never NaN."""
    model = tiny()
    even, one = torch.zeros(2, 5, 4), torch.tensor([40.0, 0, 0, 0]).expand(2, 5, 4)
    assert model.compute_z_loss(even).item() == pytest.approx(1 / 4)
    assert model.compute_load_loss(even).item() == pytest.approx(0, abs=1e-6)
    assert model.compute_z_loss(one).item() == pytest.approx(1)
    assert model.compute_load_loss(one).item() == pytest.approx(math.log(4))
    logits = (1e4 * torch.randn(2, 5, 4)).requires_grad_()
    (model.compute_load_loss(logits) + model.compute_z_loss(logits)).backward()
    assert logits.grad.isfinite().all()
    routing = Routing.from_logits(torch.randn(6, 4), 2)
    assert model.compute_load_loss(routing).item() == pytest.approx(naive_balance["kl"](routing), abs=1e-6)


def test_a_shift_of_the_logits_is_seen_by_logsumexp_alone():
    logits = torch.randn(3, 4)
    doc, true = tiny(z_loss_type="prob_sq"), tiny(z_loss_type="logsumexp")
    torch.testing.assert_close(doc.compute_z_loss(logits + 100), doc.compute_z_loss(logits))
    assert true.compute_z_loss(logits + 100) > 100 + true.compute_z_loss(logits)


def test_a_sure_router_gives_its_first_expert_almost_all_the_weight():
    """A softmax of softmax probabilities would never exceed e / (e + 1) = 0.731."""
    router = build_router("attentive", 4, 4, top_k=2, normalize=None, capacity_factor=None)
    torch.nn.init.eye_(router.query)
    torch.nn.init.eye_(router.keys)
    routing = router(100 * torch.eye(4))
    assert routing.weight.view(4, 2)[:, 0].min() > 0.99
    torch.testing.assert_close(routing.weight.view(4, 2).sum(1), torch.ones(4))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_attached_losses_give_the_gradient_of_collected_ones(reduction):
    images, text, mask = batch()
    collected = tiny(**WEIGHTS, layer_reduction=reduction)
    attached = copy.deepcopy(collected)
    set_aux_mode(attached, "attached")
    for given in ((images, text, mask), (images,)):
        outputs = collected(*given), attached(*given)
        assert outputs[1].router_loss == moezoo.aux_loss(attached) == 0
        for term in TERMS:
            torch.testing.assert_close(outputs[1][term], outputs[0][term])
            assert not outputs[1][term].requires_grad
        want = gradients(collected, outputs[0].logits.square().mean() + outputs[0].router_loss)
        got = gradients(attached, outputs[1].logits.square().mean())
        assert got.keys() == want.keys()
        for key, grad in want.items():
            torch.testing.assert_close(got[key], grad, rtol=1e-4, atol=1e-6, msg=key)


def test_a_recomputation_of_the_whole_model_counts_once():
    model, given = tiny(**WEIGHTS), batch()
    output = model(*given)
    want = gradients(model, output.logits.sum() + output.router_loss)
    again = checkpoint(model, *given, use_reentrant=False)
    assert torch.equal(again.router_loss, output.router_loss)
    got = gradients(model, again.logits.sum() + moezoo.aux_loss(model))
    for key, grad in want.items():
        torch.testing.assert_close(got[key], grad, rtol=1e-4, atol=1e-6, msg=key)


def test_several_forwards_of_one_step_are_averaged():
    model, (images, text, mask) = tiny(**WEIGHTS), batch()
    parts = [(images[:2], text[:2], mask[:2]), (images[2:], text[2:], mask[2:])]
    losses = [model(*part).router_loss.item() for part in parts]
    with moezoo.moe.collect_aux(model) as aux:
        for part in parts:
            model(*part)
        assert aux().item() == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert model(*parts[0]).router_loss.item() == pytest.approx(losses[0], rel=1e-6)


def test_accumulation_without_batch_losses_equals_the_big_batch():
    model = tiny(**dict.fromkeys(WEIGHTS, 0.0), use_gradient_checkpointing=True)
    images, text, mask = batch()
    want = gradients(model, model(images, text, mask).logits.square().mean())
    model.zero_grad()
    for i in range(4):
        (model(images[i : i + 1], text[i : i + 1], mask[i : i + 1]).logits.square().mean() / 4).backward()
    for key, grad in want.items():
        torch.testing.assert_close(model.get_parameter(key).grad, grad, rtol=1e-4, atol=1e-6, msg=key)


def test_every_parameter_learns_from_images_with_text_and_the_image_path_from_images_alone():
    model, (images, text, mask) = tiny(router_dropout=0.1), batch()
    output = model(images, text, mask)
    found = gradients(model, output.logits.square().mean() + output.image_logits.mean() + output.router_loss)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(grad.isfinite().all() and grad.any() for grad in found.values())
    output = model(images)
    found = gradients(model, output.logits.square().mean() + output.router_loss)
    idle = {key.split(".")[0] for key, _ in model.named_parameters() if key not in found}
    assert idle == {"text_embed", "text_encoder", "fusion", "log_scale"}
    assert tensors(output)

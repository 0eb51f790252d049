"""Training for re-identification: its loss, its epochs, its resumption, and what does not fit it."""

import dataclasses
import json

import pytest
import torch
from reid_toys import ReidToy, reid_config, reid_splits, reid_toy
from train_toys import SignalAt, toy, weights

from moezoo.errors import ConfigError, InputError, Interrupted
from moezoo.eval import evaluate_reid
from moezoo.train import EpochMetrics, create_for, fit, resolve_recipe
from moezoo.train.parallel import Parallel
from moezoo.train.reader import Reader
from moezoo.train.standing import Standing
from moezoo.train.tasks import choose_task, task_of
from moezoo.train.tasks.reid import ReIdentification, Seen
from moezoo.train.tasks.reid_losses import hard_triplet_loss, identity_loss


@pytest.fixture(scope="module")
def splits():
    return reid_splits()


def test_the_loss_is_the_weighted_sum_over_all_pairs(splits):
    model = reid_toy().double()
    content = Seen(torch.randn(8, 2, 1, 2, 2, dtype=torch.float64), torch.arange(8) // 4)
    for id_weight, triplet_weight in ((0.25, 1.0), (1.0, 0.0), (0.0, 2.0)):
        settings = reid_config(id_weight=id_weight, triplet_weight=triplet_weight, label_smoothing=0.2)
        task = task_of(model, splits, settings)
        assert isinstance(task, ReIdentification)
        pairs = task.forward(model, content)
        want = sum(
            id_weight * identity_loss(score, content.identities, 0.2)
            + triplet_weight * hard_triplet_loss(feature, content.identities)
            for score, feature in pairs
        )
        assert len(pairs) == 2
        assert float(task.loss(pairs, content).detach()) == pytest.approx(float(want.detach()), rel=1e-12)


def test_a_held_out_part_is_judged_by_its_own_queries(splits):
    model = reid_toy().eval()
    task = task_of(model, splits, reid_config())
    for part, name in ((splits.val, "val"), (splits.test, "test")):
        answers = task.answer(model, task.held_out([part[i] for i in range(len(part))]))
        assert task.judging(part).judge(answers).score == evaluate_reid(model, splits, name).reid.mAP
    assert task.judging(splits.val).judged is task.judged, "what epochs are chosen by"


def assert_same(one, other):
    """Of the same features; the use of the experts was added up in other batches."""
    assert dataclasses.replace(one, usage=()) == dataclasses.replace(other, usage=())
    for a, b in zip(one.usage, other.usage, strict=True):
        assert (a.layer, a.tokens, a.activation_rate) == (b.layer, b.tokens, b.activation_rate)
        assert (*a.mean, a.balance, a.stability) == pytest.approx((*b.mean, b.balance, b.stability), rel=1e-9)


def test_the_best_validation_epoch_is_kept_and_the_last_reported_beside_it(splits, tmp_path):
    seen, model = [], reid_toy()

    def look(model, splits, metrics):
        seen.append([evaluate_reid(model, splits, part).reid for part in ("val", "test")])

    result = fit(model, splits, reid_config(epochs=5, lr=0.3, ema_decay=0.6), out=tmp_path, on_epoch=look)
    scores = [val.mAP for val, _ in seen]
    assert [epoch.score for epoch in result.history] == scores
    assert result.best_epoch == scores.index(max(scores)) + 1 < 5  # at this rate the last is not the best
    assert_same(result.test.reid, seen[result.best_epoch - 1][1])
    assert_same(result.test.reid, evaluate_reid(model, splits).reid)
    assert_same(result.last.reid, seen[-1][1])
    assert result.last.reid.mAP != result.test.reid.mAP
    assert result.test.reid.usage[0].layer == "moe"
    assert result.test.reid.usage[0].tokens == 5 * 2 * 3
    assert result.best_on_test is None
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_mAP"] for row in rows] == scores
    assert rows[0]["val_loss"] is None
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["last"]["epoch"] == 5
    assert written["last"]["test"]["reid"]["mAP"] == result.last.reid.mAP
    assert written["test"]["reid"]["r1"] == result.test.reid.r1
    assert "best_on_test" not in written
    stopped = fit(reid_toy(), splits, reid_config(epochs=8, lr=0.3, early_stopping=1))
    assert len(stopped.history) == stopped.best_epoch + 1 < 8
    assert stopped.last is not stopped.test


def test_without_validation_identities_the_last_epoch_is_kept_and_the_test_chooses_nothing(tmp_path):
    splits, model, seen = reid_splits(val=0), reid_toy(), []
    result = fit(
        model,
        splits,
        reid_config(epochs=4, lr=0.1),
        out=tmp_path,
        on_epoch=lambda model, splits, metrics: seen.append(weights(model)),
    )
    scores = [epoch.score for epoch in result.history]
    assert max(scores) > scores[-1]  # so that choosing on the test would show
    assert result.best_epoch == 4
    assert torch.equal(weights(model), seen[-1])
    assert result.last is result.test
    assert result.test.reid.mAP == scores[-1]
    assert (result.best_on_test.epoch, result.best_on_test.score) == (scores.index(max(scores)) + 1, max(scores))
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["best_on_test"] == {
        "epoch": result.best_on_test.epoch,
        "test_mAP": max(scores),
        "chosen_on": "test",
    }
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["test_mAP"] for row in rows] == scores
    assert not any(key.startswith("val_") and key != "val_loss" for key in rows[0])
    restored = Standing.from_dict(json.loads(json.dumps({**dataclasses.asdict(Standing()), "history": rows})))
    assert [each.score for each in restored.history] == scores
    assert restored.kept is restored.history[-1]
    assert EpochMetrics.from_dict(rows[0]).judged_on == "test"
    with pytest.raises(ConfigError, match=r"early_stopping=2 needs validation identities.*val_identities=N"):
        fit(reid_toy(), splits, reid_config(early_stopping=2))


def outcome(model, result, folder):
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return (
        weights(model).tolist(),
        model.neck.running_mean.tolist(),
        [[m.loss, m.aux_loss, m.score] for m in result.history],
        [[row[k] for k in ("step", "loss", "aux_loss", "grad_norm", "images", "routing")] for row in steps],
        result.test.reid,
        result.last.reid,
    )


@pytest.mark.parametrize(("workers", "val"), [(0, 4), (0, 0), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_a_run_resumed_in_mid_epoch_equals_the_uninterrupted_one(tmp_path, workers, val):
    splits = reid_splits(val=val, train=9, broken=(4, 20))  # 9 groups of 4: an epoch of 4 batches, 2 steps
    settings = reid_config(grad_accum_steps=2, ema_decay=0.8, num_workers=workers, epochs=4)
    model = reid_toy(classes=9)
    result = fit(model, splits, settings, out=tmp_path / "whole")
    whole = outcome(model, result, tmp_path / "whole")
    assert len(whole[3]) == 8
    assert {row["path"] for row in json.loads((tmp_path / "whole" / "bad_files.json").read_text())} == {
        "picture-100.jpg",
        "picture-103.jpg",
    }
    for stop in (1, 4):  # in an epoch, at the end of one
        with pytest.raises(Interrupted):
            fit(reid_toy(classes=9), splits, settings, out=tmp_path / "run", resume="auto", observer=SignalAt(stop))
    model = reid_toy(classes=9)
    result = fit(model, splits, settings, out=tmp_path / "run", resume="auto")
    assert outcome(model, result, tmp_path / "run") == whole


def test_an_epoch_resumed_with_another_batch_size_knows_how_far_it_is():
    splits, settings = reid_splits(train=9), reid_config(batch_size=16)
    task = task_of(reid_toy(classes=9), splits, settings)
    reader = Reader(splits.train, task, reid_toy(), settings, Parallel(settings, torch.device("cpu")))
    # Interrupted behind 8 images: the batch in which they are is taken whole.
    assert [position for _, position in reader.steps(1, 8)] == [16, 32]
    reader.close()


class Stubborn(ReidToy):
    """Answers in training as in evaluation."""

    def forward(self, images, present=None):
        return super().forward(images)[0][0] if self.training else super().forward(images)


def test_what_does_not_fit_is_said_before_anything_is_trained(splits, toy_splits):
    def refused(model, splits, match, **settings):
        with pytest.raises(ConfigError, match=match):
            fit(model, splits, reid_config(**settings))

    refused(toy(), splits, r"'toy sightings' has identities to be found again, and Toy gives no features")
    refused(reid_toy(), toy_splits, r"'toy' has no identities seen by several cameras \(Splits\), which ReidToy")
    refused(reid_toy(classes=6), splits, r"num_classes=6 does not fit .* 7 identities to learn: --set num_classes=7")
    refused(
        reid_toy(), splits, r"mixup=0\.2, text='none' of training does not go with re-ident", mixup=0.2, text="none"
    )
    numbered = dataclasses.replace(splits, train=splits.val.images)
    refused(reid_toy(), numbered, r"must be numbered from 0 to 3, got 200 to 203: ReidImages\(…, relabel=True\)")
    refused(reid_toy(), splits, "leave nothing to learn", id_weight=0.0, triplet_weight=0.0)
    refused(reid_toy(), splits, "must be a multiple of it", batch_size=10)
    refused(reid_toy(), splits, "it takes 8 identities, and the training part has 7", batch_size=32)
    for field, value in (("instances", 4), ("id_weight", 1.0), ("triplet_weight", 0.5)):
        settings = dataclasses.replace(reid_config(instances=8), **{field: value})
        with pytest.raises(ConfigError, match=rf"{field}={value} of training has no effect: classification knows no"):
            choose_task(toy(), toy_splits, settings)
    with pytest.raises(InputError, match=r"must answer 8 images with pairs of \(8, 7\) scores and .* got \(8, 7\)"):
        fit(Stubborn(), splits, reid_config())


def test_a_fresh_model_gets_the_data_set_s_identities_unless_a_number_is_given():
    few = ["data.train_identities=5", "data.val_identities=2", "data.test_identities=2", "model.scales=[1,2]"]
    model, splits = create_for(resolve_recipe("multiscale_moe/synthetic", assignments=few))
    assert model.num_classes == splits.num_identities == 5
    assert all(head.weight.shape[0] == 5 for head in model.classifiers.values())
    again, _ = create_for(resolve_recipe("multiscale_moe/synthetic", assignments=[*few, "training.seed=0"]))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model, splits = create_for(resolve_recipe("multiscale_moe/synthetic", assignments=[*few, "num_classes=4"]))
    with pytest.raises(ConfigError, match="num_classes=4 does not fit"):
        fit(model, splits, reid_config())
    with pytest.raises(ConfigError, match=r"modalities=\('RGB', 'TIR'\) of the model do not fit"):
        create_for(resolve_recipe("multiscale_moe/synthetic", assignments=[*few, "model.modalities=[RGB,TIR]"]))


SCRIPT = """
import sys
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[2])
from reid_toys import reid_config, reid_splits, reid_toy
from moezoo.moe.aux import aux_loss
from moezoo.train import fit
from moezoo.eval import evaluate_reid

torch.set_num_threads(1)
how, val = sys.argv[3], int(sys.argv[4])
model = reid_toy(weights={"load_balancing": 0.5})
splits = reid_splits(val=val, train=7)
result = fit(model, splits, reid_config(parallel=how, batch_size=8, instances=4), out=sys.argv[1])
after = torch.cat([p.detach().flatten() for p in model.parameters()])
both = [torch.empty_like(after) for _ in range(2)]
dist.all_gather(both, after)
assert torch.equal(*both)
assert all(epoch.aux_loss > 0 for epoch in result.history)  # found through the wrapper
if val:
    assert result.test.reid.mAP == evaluate_reid(model, splits).reid.mAP
assert result.test.reid.usage[0].tokens == 30  # of both processes
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "val"), [("ddp", 4), ("ddp", 0), ("fsdp", 4)])
def test_two_processes_train_one_model_with_its_auxiliary_loss(tmp_path, how, val):
    import subprocess
    import sys
    from pathlib import Path

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command, script, tmp_path / "out", Path(__file__).parents[1], how, str(val)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]

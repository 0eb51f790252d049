import pytest
import torch

from moezoo.train import resolve_recipe, train_recipe


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_digits_recipe_reaches_97_percent_over_three_seeds(tmp_path):
    torch.set_num_threads(2)
    accuracies = []
    for seed in range(3):
        recipe = resolve_recipe("entity_moe/digits", assignments=[f"training.seed={seed}", "training.device=cpu"])
        run = train_recipe(recipe, tmp_path / str(seed))
        accuracies.append(run.result.test.classification.top1)
        assert all(not load.dead_experts for load in run.result.test.routing)
    assert sum(accuracies) / 3 >= 0.97, accuracies

import copy
import pickle

import pytest
import torch
from rank_pool import run_ranks
from spread_losses import by_loss, by_loss_of_rank, layer, tokens

from moezoo.errors import ConfigError
from moezoo.moe import set_balance_scope
from moezoo.moe.ranks import Ranks


def test_losses_of_all_ranks_are_those_of_one_process_with_all_tokens():
    cuts = (7, 3, 0)
    alone = by_loss(torch.cat(tokens(cuts)))
    for together in run_ranks(len(cuts), by_loss_of_rank, cuts, "global"):
        for name, (loss, gradient) in alone.items():
            assert torch.allclose(together[name][0], loss, rtol=0, atol=1e-12), name
            assert torch.allclose(together[name][1], gradient, rtol=0, atol=1e-12), name
            assert name == "budget as a price" or gradient.abs().max() > 1e-6, name


def test_a_local_balance_is_another_loss():
    cuts = (5, 5)
    alone = by_loss(torch.cat(tokens(cuts)))
    together = run_ranks(2, by_loss_of_rank, cuts, "local")[0]
    for name in ("load_balancing", "importance", "kl_balance", "load", "penalty"):
        assert not torch.allclose(together[name][1], alone[name][1], atol=1e-6), name
    for name in ("router_z", "local_entropy"):  # means over tokens, of equally many in each
        assert torch.allclose(together[name][1], alone[name][1], atol=1e-12), name


def test_a_scope_must_be_known_and_a_global_one_needs_processes():
    moe = layer()
    with pytest.raises(ConfigError, match=r"'world'.*local.*global"):
        set_balance_scope(moe, "world")
    with pytest.raises(ConfigError, match="not initialised"):
        set_balance_scope(moe, "global")
    set_balance_scope(moe, "local")
    assert moe.router.ranks is None


def test_a_copied_layer_keeps_its_ranks_and_a_pickled_one_forgets_them():
    moe = layer()
    moe.router.ranks = Ranks()
    assert copy.deepcopy(moe).router.ranks is moe.router.ranks
    assert pickle.loads(pickle.dumps(moe)).router.ranks is None

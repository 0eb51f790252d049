"""What the routers' losses of the last forward were, for the output of a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from moezoo.models.diff_moe.block import BALANCE_LOSSES, Z_LOSSES
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.moe.aux import aux_loss


def router_losses(
    model: nn.Module, config: DiffMoEConfig, terms: Mapping[str, Tensor], zero: Tensor
) -> dict[str, Tensor]:
    """What :func:`moezoo.aux_loss` says, and of ``terms`` the z-loss and the balance loss that ``config`` names.

    Args:
        model: The model.
        config: Its configuration.
        terms: What :func:`moezoo.moe.aux.aux_terms` says of it.
        zero: Stands for losses that there are none of, as in evaluation.
    """
    return {
        "router_loss": aux_loss(model) if model.training else zero,
        "router_z_loss": terms.get(Z_LOSSES[config.z_loss_type], zero),
        "router_balance_loss": terms.get(BALANCE_LOSSES[config.balance_loss_type], zero),
    }

"""``features_only``: a backbone's intermediate maps, always (B, C, H, W), under the classifier's state-dict keys."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models._features import FeatureInfo
from torch import Tensor, nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.feature_info import intermediates, measured_info
from moezoo.backbones.inputs import check_images
from moezoo.backbones.prefix import hide_prefix
from moezoo.errors import ConfigError
from moezoo.moe.aux import mark_root


class FeatureModel(nn.Module):
    """A timm model (adapters included) that returns a list of feature maps.

    Args:
        model: The model; its head and the blocks behind the last feature are removed.
        out_indices: Which of the model's feature stages to return, negative ones counted from the end; an int ``n``
            means the last ``n``. ``None`` is timm's habit: all stages, and for a plain ViT the last three.

    Raises:
        ConfigError: An index does not exist or is given twice.
    """

    def __init__(self, model: nn.Module, out_indices: int | Sequence[int] | None = None):
        super().__init__()
        info = getattr(model, "feature_info", None)
        entries = getattr(info, "info", info)
        if not entries or not hasattr(model, "forward_intermediates"):
            raise ConfigError(
                f"features_only=True is not possible: {type(model).__name__} has no intermediate features."
            )
        self.out_indices = check_out_indices(out_indices, [float(e["reduction"]) for e in entries])
        self.feature_info = FeatureInfo(measured_info(model, entries), self.out_indices)
        model.prune_intermediate_layers(list(self.out_indices), prune_norm=True, prune_head=True)  # type: ignore[operator]
        self.model = model
        self.pretrained_cfg = self.default_cfg = getattr(model, "pretrained_cfg", {})
        hide_prefix(self)
        mark_root(self)
        allow_empty_batches(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) images to one (B, C_i, H_i, W_i) map per index."""
        if hasattr(self.model, "moezoo_in_chans"):
            check_images(self.model, x)
        return intermediates(self.model, x, self.out_indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Passed on to the backbone."""
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]


def check_out_indices(out_indices: int | Sequence[int] | None, reductions: Sequence[float]) -> tuple[int, ...]:
    """``out_indices`` as sorted-by-request, non-negative, distinct indices; raises :class:`ConfigError`."""
    count = len(reductions)
    if out_indices is None:
        plain = count > 1 and len(set(reductions)) == 1
        return tuple(range(max(count - 3, 0), count)) if plain else tuple(range(count))
    if isinstance(out_indices, int) and not isinstance(out_indices, bool):
        if not 1 <= out_indices <= count:
            raise ConfigError(
                f"out_indices={out_indices} is not allowed: an int is how many of the last 1 to {count} stages."
            )
        return tuple(range(count - out_indices, count))
    if isinstance(out_indices, (str, bytes)) or not isinstance(out_indices, Sequence) or not len(out_indices):
        raise ConfigError(
            f"out_indices={out_indices!r} is not allowed: give a list of stage indices, or how many of the last."
        )
    result = []
    for index in out_indices:
        if isinstance(index, bool) or not isinstance(index, int) or not -count <= index < count:
            raise ConfigError(
                f"out_indices={list(out_indices)} is not allowed: {index!r} is not in {-count} to {count - 1}."
            )
        result.append(index % count)
    if len(set(result)) != len(result):
        raise ConfigError(f"out_indices={list(out_indices)} is not allowed: a stage is named twice.")
    return tuple(sorted(result))

"""``features_only``: a backbone's intermediate maps, always (B, C, H, W), under the classifier's state-dict keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models._features import FeatureInfo
from torch import Tensor, nn

from moezoo.backbones.blocks import feature_stages
from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import check_images
from moezoo.errors import ConfigError
from moezoo.moe.aux import mark_root

_PREFIX = "model."


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
        self.out_indices = check_out_indices(out_indices, [s.reduction for s in feature_stages(model)])
        self.feature_info = FeatureInfo(entries, self.out_indices)
        model.prune_intermediate_layers(list(self.out_indices), prune_norm=True, prune_head=True)  # type: ignore[operator]
        self.model = model
        self.pretrained_cfg = self.default_cfg = getattr(model, "pretrained_cfg", {})
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)
        mark_root(self)
        allow_empty_batches(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) images to one (B, C_i, H_i, W_i) map per index."""
        if hasattr(self.model, "moezoo_in_chans"):
            check_images(self.model, x)
        return self.model.forward_intermediates(  # type: ignore[operator]
            x, indices=list(self.out_indices), norm=False, output_fmt="NCHW", intermediates_only=True
        )

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


def _drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + _PREFIX)]:
        state[prefix + key[len(prefix + _PREFIX) :]] = state.pop(key)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        state[prefix + _PREFIX + key[len(prefix) :]] = state.pop(key)

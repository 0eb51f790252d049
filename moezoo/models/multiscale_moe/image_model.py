"""What timm's users and tools call on the model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.models.multiscale_moe.config import MultiScaleMoEConfig

FIRST = "backbone"


class ReidImageModel(nn.Module):
    """Base class with timm's methods around the backbone; the parts behind it are built by the subclass.

    Args:
        config: What to build.
        trunks: The backbone, or one for each modality.
    """

    mapping_call: ClassVar[dict[str, Any]] = {"return_weights": True}
    """Keyword arguments that make the model answer a mapping with ``logits``, for those who need scores."""

    def __init__(self, config: MultiScaleMoEConfig, trunks: Sequence[nn.Module]):
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        self.scales = config.scales
        self.num_classes = config.num_classes
        self.num_features = self.head_hidden_size = config.embed_dim
        self.input_size = (config.in_chans, *config.sides)
        self.backbone: nn.Module = trunks[0]
        if not config.shared_backbone:
            self.backbone = nn.ModuleDict(dict(zip(self.modalities, trunks, strict=True)))
        self.pretrained_cfg = self.default_cfg = self._describe(trunks[0].pretrained_cfg)  # type: ignore[arg-type]

    @property
    def trunk_paths(self) -> dict[str, nn.Module]:
        """The backbones by their paths in the model."""
        if self.config.shared_backbone:
            return {FIRST: self.backbone}
        return {f"{FIRST}.{name}": self.backbone[name] for name in self.modalities}  # type: ignore[index]

    def backbone_parts(self) -> list[tuple[nn.Module, MultiScaleMoEConfig]]:
        """The backbones, each with the configuration that describes it: where pretrained weights go."""
        return [(trunk, self.config.of_backbone()) for trunk in self.trunk_paths.values()]

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of one image."""
        return self.layout.grid  # type: ignore[union-attr, return-value]

    @property
    def feature_info(self) -> Any:
        """What maps :meth:`forward_intermediates` can give: the backbone's, of one image."""
        path, trunk = next(iter(self.trunk_paths.items()))
        info: Any = getattr(trunk, "feature_info", None)
        entries = getattr(info, "info", info) or []
        return [{**entry, "module": f"{path}.{entry['module']}"} if entry.get("module") else entry for entry in entries]

    def forward_intermediates(self, x: Tensor, indices: Any = None, **options: Any) -> Any:
        """The backbone's (of several, the first modality's) intermediate maps of (B, C, H, W) images, as timm has
        them."""
        return self._first.forward_intermediates(x, indices=indices, **options)  # type: ignore[operator]

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave what intermediate features need: one backbone up to the last index."""
        taken = self._first.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=True)  # type: ignore[operator]
        if not self.config.shared_backbone:
            for name in self.modalities[1:]:
                del self.backbone[name]  # type: ignore[operator]
        kept = {FIRST} if prune_head else {FIRST, "classifiers"}
        for name, _ in list(self.named_children()):
            if name not in kept:
                delattr(self, name)
        return taken

    def get_classifier(self) -> nn.Module:
        """The classifiers by name: each modality's, and ``all``."""
        return self.classifiers  # type: ignore[return-value]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass, or stop doing so."""
        for trunk in self.trunk_paths.values():
            trunk.set_grad_checkpointing(enable)  # type: ignore[operator]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """What the backbone says of its own parameters."""
        return {
            f"{path}.{name}"
            for path, trunk in self.trunk_paths.items()
            if hasattr(trunk, "no_weight_decay")
            for name in trunk.no_weight_decay()  # type: ignore[operator]
        }

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Any:
        """timm's patterns for layer-wise learning rates: the backbone's, then all that is behind it."""
        numbers = {
            f"{path}.{name}": number
            for path, trunk in self.trunk_paths.items()
            if hasattr(trunk, "group_matcher")
            for name, number in group_parameters(trunk, trunk.group_matcher(coarse), reverse=True).items()  # type: ignore[operator]
        }
        return functools.partial(_number_of, numbers)

    @property
    def _first(self) -> nn.Module:
        return next(iter(self.trunk_paths.values()))

    def _check_pooling(self, global_pool: str | None) -> None:
        if global_pool is not None:
            raise ConfigError(
                f"global_pool={global_pool!r} is not possible here: it is the backbone's; build the model with it."
            )

    def _describe(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """The backbone's data description, with the paths that its layers have here."""
        first = cfg.get("first_conv") or ()
        convs = [
            f"{path}.{name}" for path in self.trunk_paths for name in ((first,) if isinstance(first, str) else first)
        ]
        return {
            **cfg,
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "fixed_input_size": True,
            "first_conv": convs[0] if len(convs) == 1 else tuple(convs),
            "classifier": "classifiers",
        }


def _number_of(numbers: dict[str, int], name: str) -> float:
    """The group of a parameter, or of a module, which is that of its first parameter; new parts come last."""
    if name in numbers:
        return numbers[name]
    inside = next((number for key, number in numbers.items() if key.startswith(f"{name}.")), None)
    return inside if inside is not None else 0.0 if name.startswith(f"{FIRST}.") else math.inf

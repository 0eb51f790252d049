"""What configurations share of families that change a timm backbone. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge, Le, Lt

from moezoo.config import STRICT, option

Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Rate: TypeAlias = Annotated[float, Ge(0.0), Lt(1.0)]
Place: TypeAlias = int | str | tuple[int | str, int]


@dataclass(frozen=True)
class TimmBackboneConfig:
    """A timm backbone. ``None`` keeps timm's default."""

    __pydantic_config__ = STRICT

    model_name: str = option("vit_small_patch16_224", "timm architecture of the backbone", alias="backbone")
    backbone_tag: str | None = option(None, "timm weight tag, for example augreg_in21k_ft_in1k")
    backbone_args: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "further keyword arguments of the timm model", "aliases": ()}
    )
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] | None = option(1000, "classes; 0 gives pooled features")
    in_chans: Annotated[int, Ge(1), Le(1024)] | None = option(3, "channels of the image", alias="in_channels")
    img_size: Count | tuple[Count, Count] | None = option(None, "side of the image, or (height, width)")
    drop_rate: Rate | None = option(None, "dropout before the backbone's classifier")
    drop_path_rate: Rate | None = option(None, "stochastic depth of the backbone")
    global_pool: str | None = option(None, "pooling before the classifier, in timm's words")

    @property
    def backbone(self) -> str:
        """``model_name`` under the name common to all families."""
        return self.model_name

"""Plain timm backbones, built from the fields every family configuration shares."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from timm.models import is_model_in_modules
from torch import nn

import moezoo.backbones.small  # noqa: F401  (adds our small backbones to timm's registry)
from moezoo.backbones.backbone_args import check_backbone_args
from moezoo.backbones.transfer import classifier_keys, copy_backbone, listed, unread_keys
from moezoo.errors import ConfigError, UnknownModelError, WeightsMismatch, WeightsUnavailable
from moezoo.names import did_you_mean

log = logging.getLogger(__name__)

OURS = "moezoo"
"""timm's name for the module of the models that :mod:`moezoo.timm` registers."""


class BackboneFields(Protocol):
    """What a configuration says about its backbone."""

    @property
    def model_name(self) -> str: ...
    @property
    def backbone_tag(self) -> str | None: ...
    @property
    def backbone_args(self) -> dict[str, Any]: ...
    @property
    def num_classes(self) -> int | None: ...
    @property
    def in_chans(self) -> int | None: ...
    @property
    def img_size(self) -> int | tuple[int, int] | None: ...
    @property
    def drop_rate(self) -> float | None: ...
    @property
    def drop_path_rate(self) -> float | None: ...
    @property
    def global_pool(self) -> str | None: ...


def is_architecture(arch: str) -> bool:
    """Whether timm knows the architecture (tags are not part of it)."""
    # Where moezoo.timm is imported, timm lists our models too; those stand on a backbone and are none.
    return "." not in arch and timm.is_model(arch) and not is_model_in_modules(arch, (OURS,))


def check_architecture(arch: str, tag: str | None = None) -> None:
    """Raise :class:`UnknownModelError` with the nearest timm name, or naming the valid tags."""
    if not is_architecture(arch):
        hint = " A weight tag goes into backbone_tag=." if "." in arch and is_architecture(arch.split(".")[0]) else ""
        raise UnknownModelError(f"timm has no architecture {arch!r}.{did_you_mean(arch, architectures())}{hint}")
    if tag is not None and tag not in weight_tags(arch):
        tags = weight_tags(arch)
        raise ConfigError(
            f"backbone_tag={tag!r} is not a weight tag of {arch!r}.{did_you_mean(tag, tags)} "
            f"Tags: {', '.join(tags) or 'none'}."
        )


def weight_tags(arch: str) -> list[str]:
    """timm's pretrained tags of an architecture."""
    configs = timm.models.get_arch_pretrained_cfgs(arch)
    return [name.partition(".")[2] for name in configs if "." in name]


def pretrained_cfg(arch: str, tag: str | None = None) -> Any:
    """timm's ``PretrainedCfg`` of ``arch[.tag]``."""
    check_architecture(arch, tag)
    return timm.get_pretrained_cfg(f"{arch}.{tag}" if tag else arch)


def create_backbone(
    config: BackboneFields, *, weights: Path | bool = False, num_classes: int | None = None
) -> nn.Module:
    """The plain timm model a configuration stands on.

    Args:
        config: Any family configuration.
        weights: ``False`` for fresh weights, a file with timm's pretrained weights, or ``True`` to let timm fetch them.
        num_classes: Classes, if not the configuration's.

    Raises:
        UnknownModelError: timm has no such architecture.
        ConfigError: The architecture does not take one of the arguments.
        WeightsUnavailable: ``weights`` asked for and timm has none.
        WeightsMismatch: timm refuses the weights.
    """
    arch, tag = config.model_name, config.backbone_tag
    check_architecture(arch, tag)
    check_backbone_args(config.backbone_args)
    kwargs = {
        "num_classes": config.num_classes if num_classes is None else num_classes,
        "in_chans": config.in_chans,
        "drop_rate": config.drop_rate,
        "drop_path_rate": config.drop_path_rate,
        "global_pool": config.global_pool,
        **config.backbone_args,
    }
    if isinstance(weights, Path):
        kwargs["pretrained_cfg_overlay"] = {"file": str(weights)}
    name, size = (f"{arch}.{tag}" if tag else arch), config.img_size
    try:
        model = _create(name, bool(weights), kwargs, size)
    except TypeError as error:
        raise ConfigError(f"{arch!r} does not take these arguments: {_unexpected(error)}") from error
    except (AssertionError, KeyError, ValueError, RuntimeError) as error:
        if weights:
            raise _refused(name, str(error)) from error
        if isinstance(error, RuntimeError):
            raise
        raise ConfigError(f"timm cannot build {arch!r} with {kwargs}: {error or type(error).__name__}") from error
    _describe_data(model, config, size)
    return model


def _refused(name: str, text: str) -> WeightsUnavailable | WeightsMismatch:
    """What it means that timm, which builds ``name``, does not build it with weights."""
    if "No pretrained weights exist" in text:
        return WeightsUnavailable(f"timm has no pretrained weights for {name!r}: {text}")
    hint = " backbone_args={'fc_norm': False} pools after the final norm, where weights may have it."
    return WeightsMismatch(f"the weights do not fit {name!r}: {text:.500}{hint if 'fc_norm' in text else ''}")


def _create(name: str, pretrained: bool, kwargs: dict[str, Any], size: Any) -> nn.Module:
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if size is None:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    try:
        return timm.create_model(name, pretrained=pretrained, img_size=size, **kwargs)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # Convolutional networks take any size and have no such argument.
        return timm.create_model(name, pretrained=pretrained, **kwargs)


def _describe_data(model: nn.Module, config: BackboneFields, size: Any) -> None:
    """Let ``timm.data.resolve_model_data_config(model)`` answer for the size and channels asked for."""
    cfg = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    channels, *sides = cfg["input_size"]
    in_chans = config.in_chans or channels
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) if size is None else size
    if size is not None:  # also where timm states another size than it builds (vitamin_xlarge_336)
        sides = [size, size] if isinstance(size, int) else list(size)
    if in_chans != channels:
        for key in ("mean", "std"):  # one value per channel, else Normalize would broadcast a grey image to three
            values = cfg.get(key) or (0.5,)
            cfg[key] = (sum(values) / len(values),) * in_chans
    cfg["input_size"] = (in_chans, *sides)
    model.pretrained_cfg = model.default_cfg = cfg  # type: ignore[assignment]


@functools.cache
def architectures() -> tuple[str, ...]:
    """timm's architectures, without tags."""
    return tuple(name for name in timm.list_models() if is_architecture(name))


def _unexpected(error: TypeError) -> str:
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"unknown argument {found.group(1)!r}" if found else str(error)


def load_backbone_weights(model: nn.Module, config: BackboneFields, weights: Path | bool) -> None:
    """Copy timm's pretrained weights, adapted to channels and size by timm itself, into an injected model.

    timm reads them into a backbone for their own number of classes, because for another number it would let any weight
    be missing. Only the classifier stays fresh where the numbers differ.

    Raises:
        WeightsUnavailable: timm has none.
        WeightsMismatch: A weight of the backbone is missing, unexpected or of another shape; ``model`` is unchanged.
    """
    cfg = pretrained_cfg(config.model_name, config.backbone_tag)
    wanted = cfg.num_classes if config.num_classes is None else config.num_classes
    classes = wanted if cfg.num_classes is None else cfg.num_classes
    named = cfg.classifier or ()
    classifiers = (named,) if isinstance(named, str) else tuple(named)
    with torch.inference_mode(False):
        donor = create_backbone(config, weights=weights, num_classes=classes)
        if isinstance(weights, Path):
            with torch.device("meta"):
                fresh = create_backbone(config, num_classes=classes)
            # Weights without classes may come without the rest of a head.
            may_lack = classifier_keys(classifiers, 0, 1) if classes == 0 else ()
            unread = [key for key in unread_keys(donor, fresh) if not key.startswith(may_lack)]
            if unread:
                raise _refused(config.model_name, f"missing {listed(unread)}")
    copy_backbone(model, donor, classifier_keys(classifiers, classes, wanted))
    if wanted not in (0, classes):
        told = (config.model_name, classes, wanted)
        log.info("%s: the weights are for %s classes; the classifier for %s is fresh", *told)

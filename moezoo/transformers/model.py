"""A model of moezoo as a transformers image classifier."""

from __future__ import annotations

import logging
import os
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from moezoo.backbones.answers import ask_plainly
from moezoo.backbones.live import current_config
from moezoo.config import to_dict
from moezoo.errors import ConfigError, WeightsMismatch
from moezoo.factory import build, create_model
from moezoo.hub.state import shown
from moezoo.moe.aux import aux_loss
from moezoo.moe.aux_mode import set_aux_mode
from moezoo.names import is_stored_name
from moezoo.transformers.config import MoeZooConfig, is_moezoos
from moezoo.transformers.output import MoeZooClassifierOutput
from moezoo.transformers.stored import HUB, load_stored
from moezoo.transformers.unloaded import own_memory, restore_unloaded

logger = logging.getLogger(__name__)


class MoeZooForImageClassification(PreTrainedModel):
    """``model(pixel_values, labels)`` gives logits, and with labels a loss that holds the auxiliary losses in training.

    Because they are in the loss, accumulation, gradient scalers and mixed precision treat them as they should. A loss
    that is computed elsewhere, from the logits, has to add ``outputs.aux_loss``.

    Args:
        config: Which model.
        model: What to wrap; built with fresh weights if it is not given.
    """

    config_class = MoeZooConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False

    def __init__(self, config: MoeZooConfig, model: nn.Module | None = None):
        super().__init__(config)
        if model is None:
            family = config.family_config()
            model = build(family)
            _sign(model, config, family)
        self.model = model
        self.num_labels = config.num_labels
        self.gradient_checkpointing = False
        self._told = False
        # The loss is this class's business, whatever the model was prepared for.
        set_aux_mode(model, "collected")
        self._to_be_loaded = any(tensor.is_meta for tensor in model.parameters())
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> MoeZooClassifierOutput | tuple[Tensor, ...]:
        """(B, C, H, W) images, and (B,) class indices or what ``config.problem_type`` asks for."""
        logits = ask_plainly(self.model, pixel_values)
        aux = aux_loss(self.model) if self.training else None
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config)
            loss = loss if aux is None else loss + aux
        elif aux is not None and aux.requires_grad and not self._told:
            self._told = True
            logger.warning(
                "there are no labels in training: a loss that is computed elsewhere has to add outputs.aux_loss. "
                "Trainer's label_smoothing_factor does not, and leaves the experts unbalanced: use compute_loss_func."
            )
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        return MoeZooClassifierOutput(loss=loss, logits=logits, aux_loss=aux)

    @classmethod
    def from_moezoo(cls, model: nn.Module | str | os.PathLike[str], **kwargs: Any) -> MoeZooForImageClassification:
        """Wrap a model of moezoo: the same object, not a copy.

        Args:
            model: It, its name, or the folder it was saved in.
            **kwargs: As of :func:`moezoo.create_model`. Stored models are ``pretrained`` unless told otherwise.

        Raises:
            ConfigError: moezoo did not build the model, or it has no classes.
        """
        if not isinstance(model, nn.Module):
            name = os.fspath(model)
            if os.path.isdir(name):
                name = f"local-dir:{name}"
            model = create_model(name, kwargs.pop("pretrained", is_stored_name(name)), **kwargs)
        elif kwargs:
            raise ConfigError(f"{', '.join(kwargs)}: a model that is there already takes no arguments.")
        return cls(MoeZooConfig.of(model), model)

    def to_moezoo(self) -> nn.Module:
        """The model inside, the same object, with the labels of ``config``: what moezoo's own functions take."""
        names = list(self.config.id2label.values())  # type: ignore[union-attr]
        generic = names == [f"LABEL_{index}" for index in range(len(names))]
        self.model.label_names = None if generic else tuple(names)
        return self.model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of ``PreTrainedModel``, but strict, and reading folders and repositories of moezoo too.

        Raises:
            WeightsMismatch: A weight is missing or unexpected. ``ignore_mismatched_sizes=True`` lets a head for another
                number of labels be fresh.
            WeightsError: Of a model that :func:`moezoo.save_pretrained` wrote: they are damaged or do not fit.
        """
        if kwargs.get("use_safetensors") is False:
            raise ConfigError("use_safetensors=False is not allowed: moezoo reads safetensors only, never a pickle.")
        kwargs["use_safetensors"] = True
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            hub = {key: kwargs[key] for key in HUB if key in kwargs}
            stored, _ = MoeZooConfig.get_config_dict(pretrained_model_name_or_path, **hub)
            if is_moezoos(stored):
                return cls._from_moezoos(os.fspath(pretrained_model_name_or_path), **kwargs)
        wanted = kwargs.pop("output_loading_info", False)
        kwargs["output_loading_info"] = True
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, info = loaded
        faults = [f"{kind.partition('_')[0]} {shown(sorted(info[kind]))}" for kind in _FAULTS if info.get(kind)]
        if faults:
            place = str(pretrained_model_name_or_path)
            raise WeightsMismatch(f"the weights in {place!r} do not fit: {'; '.join(faults)}")
        own_memory(model)
        return (model, info) if wanted else model

    @classmethod
    def _from_moezoos(cls, path: str, *, output_loading_info: bool = False, **kwargs: Any) -> Any:
        model = cls(*load_stored(path, **kwargs)).eval()
        # What differed would have been an error.
        info: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "error_msgs": []}
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As of ``PreTrainedModel``; experts pruned or added since are in the configuration that is written."""
        family = current_config(self.model, self.model.moezoo_config)
        self.config.moezoo_config = {**to_dict(family), "num_classes": self.config.num_labels}
        return super().save_pretrained(*args, **kwargs)

    def initialize_weights(self) -> None:
        """Nothing to do after building; after loading, give what was not in the file its fresh values."""
        if self._to_be_loaded and not any(tensor.is_meta for tensor in self.model.parameters()):
            self._to_be_loaded = False
            restore_unloaded(self.model, lambda: build(self.config.family_config()))

    def _init_weights(self, module: nn.Module) -> None:
        """The parts of a model initialise themselves."""

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        # By the backbone's own means, never reentrant, so that the auxiliary losses keep their graph.
        self.model.set_grad_checkpointing(enable)
        self.gradient_checkpointing = enable


_FAULTS = ("missing_keys", "unexpected_keys")


def _sign(model: nn.Module, config: MoeZooConfig, family: Any) -> None:
    """As ``moezoo.create_model`` signs what it builds."""
    signature = {"moezoo_name": config.moezoo_name, "moezoo_config": family, "weights_origin": "fresh"}
    for key, value in {**signature, "label_names": None}.items():
        setattr(model, key, value)

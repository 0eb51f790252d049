"""The captioner: an image, read by the mixture-of-experts encoder, to a sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.inputs import check_images
from moezoo.errors import ConfigError, InputError
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.decoder import Decoder
from moezoo.models.diff_moe.generate import GenerationOutput, generate, generation_options
from moezoo.models.diff_moe.image_path import ImagePath
from moezoo.models.diff_moe.init import init_weights
from moezoo.models.diff_moe.output import CaptionerOutput, ExpertShares
from moezoo.models.diff_moe.router_losses import router_losses
from moezoo.models.diff_moe.text import check_text
from moezoo.moe.aux import aux_terms, mark_root
from moezoo.moe.aux_calls import aux_calls
from moezoo.moe.modes import evaluating

SPECIAL = {"pad_id": 0, "bos_id": 1, "eos_id": 2}
"""Without a tokenizer: those of the own vocabulary."""


class MoECaptioner(ImagePath):
    """Image encoder and a decoder that writes what the image shows. No text encoder, no fusion, no classifier.

    Args:
        config: What to build.

    Raises:
        ConfigError: ``num_classes`` is not 0, or there is no room for the special tokens.
    """

    takes_text = True
    """``forward`` takes token ids beside images."""
    tokenizer: Any = None
    """What made the token ids that the model was trained with, and makes sentences of those it generates."""
    num_classes = 0

    def __init__(self, config: DiffMoEConfig):
        super().__init__(config, typed=False)
        _check_config(config)
        self.config = config
        self.decoder = Decoder(config)
        init_weights(self, config.initializer_range)
        for calls in aux_calls(self):
            calls.report = True
        mark_root(self)

    def forward(self, images: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> CaptionerOutput:
        """What word follows each word of a text, told the image and the words up to there.

        Args:
            images: (B, C, H, W).
            text: (B, L) int64 token ids, the beginning first; ``None`` means the beginning alone.
            mask: (B, L) bool, True for real tokens; ``None`` means all are. What stands elsewhere is not looked at.

        Raises:
            InputError: A shape, type or token id does not fit, or a text is all padding.
        """
        ids = self._ids(images.shape[0], text, mask, images.device)
        shares = None if torch.compiler.is_compiling() else ExpertShares()
        image = self.image_features(images, note=None if shares is None else shares.note)
        return CaptionerOutput(
            logits=self.decoder(ids, image, mask),
            img_features=image,
            expert_activations=None if shares is None else {"img_encoder": shares},
            **router_losses(self, self.config, aux_terms(self), torch.zeros((), device=image.device)),
        )

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to the (B, N, D) tokens that the decoder looks at; :meth:`generate` takes them too."""
        if hasattr(self, "moezoo_in_chans"):  # a model that ``build`` made
            check_images(self, images)
        return self.image_features(images)

    def generate(self, images: Tensor, *, generator: torch.Generator | None = None, **options: Any) -> GenerationOutput:
        """A text for every image, computed in evaluation mode.

        Args:
            images: (B, C, H, W), or what :meth:`encode_image` said of them.
            generator: Of the model's device, for ``do_sample``; ``None`` means the global one.
            **options: Fields of :class:`~moezoo.models.diff_moe.generate.GenerationOptions`. The special tokens are
                the tokenizer's unless given. Lengths beyond ``max_text_len`` are cut to it.

        Raises:
            ConfigError: An option is unknown, ill-typed, out of range, or has no effect beside the others.
            InputError: The images have the wrong shape or type.
        """
        own = {name: getattr(self.tokenizer, name) for name in SPECIAL} if self.tokenizer is not None else SPECIAL
        checked = generation_options(**{**own, **options}).within(self.config.max_text_len)
        with evaluating(self):
            tokens = images if self._encoded(images) else self.encode_image(images)
            steps = Steps(self.decoder, tokens, checked.num_beams, getattr(self.tokenizer, "vocab_size", None))
            return generate(
                steps, len(tokens), checked, device=tokens.device, reorder=steps.reorder, generator=generator
            )

    def caption(self, images: Tensor, **options: Any) -> list[str]:
        """A sentence for every image; arguments as :meth:`generate`.

        Raises:
            ConfigError: The model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ConfigError(
                "the model has no tokenizer to make sentences of token ids: set model.tokenizer to the one it was "
                "trained with, or call generate() for the ids. Training sets it, save_pretrained keeps it."
            )
        return list(self.tokenizer.decode(self.generate(images, **options).generated_ids))

    # What timm's users and tools call.

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, N, D) features."""
        return self.image_features(x)

    def get_classifier(self) -> nn.Module:
        """Nothing: a captioner has no classifier."""
        return nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Has no meaning: raises :class:`ConfigError` unless it asks for no classes."""
        if num_classes:
            raise ConfigError(f"num_classes={num_classes} is not possible: a captioner has no classifier.")

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block of the encoder and the decoder in the backward pass, or stop doing so."""
        super().set_grad_checkpointing(enable)
        self.decoder.grad_checkpointing = enable

    def key_geometry(self) -> tuple[tuple[int, int], int]:
        """For pictures of where words look: the grid of the image tokens last seen, and how many stand before it."""
        return self.img_encoder.grid, self.num_prefix_tokens

    def _encoded(self, images: Any) -> bool:
        """Whether they are tokens already. What may as well be one image that lacks its batch is none, but refused."""
        if not isinstance(images, Tensor) or images.dim() != 3:
            return False
        one = (self.patch_embed.proj.in_channels, *self.patch_embed.img_size)
        return images.shape[2] == self.embed_dim and tuple(images.shape) != one

    def _ids(self, batch: int, text: Tensor | None, mask: Tensor | None, device: torch.device) -> Tensor:
        if text is None:
            if mask is not None:
                raise InputError("mask was given without text.")
            bos = SPECIAL["bos_id"] if self.tokenizer is None else self.tokenizer.bos_id
            return torch.full((batch, 1), bos, device=device)
        check_text(text, mask, batch=batch, vocab_size=self.config.vocab_size, max_len=self.config.max_text_len)
        return text if mask is None else text.masked_fill(~mask, 0)


class Steps:
    """The next word's logits, with what is known of the image and the words before kept between the calls.

    Args:
        decoder: The decoder.
        image: (B, N, D) image tokens.
        copies: Rows of ids for each image.
        words: How many token ids mean something; ``None`` means all.
    """

    def __init__(self, decoder: Decoder, image: Tensor, copies: int, words: int | None):
        self._decoder, self._words, self._seen = decoder, words, 0
        self._pasts = decoder.begin(image, copies)

    def __call__(self, ids: Tensor) -> Tensor:
        logits = self._decoder.step(ids[:, self._seen :], self._seen, self._pasts)
        self._seen = ids.shape[1]
        return logits[:, : self._words]

    def reorder(self, rows: Tensor) -> None:
        for past in self._pasts:
            past.reorder(rows)


def _check_config(config: DiffMoEConfig) -> None:
    if config.num_classes:
        raise ConfigError(
            f"num_classes={config.num_classes} is not allowed with captioner=True, which has no classifier: it must "
            "be 0."
        )
    if config.vocab_size <= len(SPECIAL):
        raise ConfigError(
            f"vocab_size={config.vocab_size} is not allowed with captioner=True: it must be above {len(SPECIAL)}, the "
            "number of special tokens."
        )
    if config.max_text_len < len(SPECIAL):
        raise ConfigError(
            f"max_text_len={config.max_text_len} is not allowed with captioner=True: it must be at least "
            f"{len(SPECIAL)}, a word between beginning and end."
        )

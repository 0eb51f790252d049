"""Every registered model made small enough to run, without changing what it is made of."""

import copy
import functools

import pytest
import torch

import moezoo
from moezoo.backbones.answers import plain_answer
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.inputs import example_shape
from moezoo.moe import MoELayer
from moezoo.registry import model_config

ADAPTER = {"expert_dim": 16, "mlp_ratio": 0.5, "dropout": 0.0}
BY_BACKBONE = {
    "vit": {"img_size": 32, "backbone_args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}},
    "swin": {
        "img_size": 32,
        "backbone_args": {"embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2},
    },
    "resnet": {"backbone_args": {"layers": [1, 1, 1, 2], "channels": [8, 8, 16, 16], "stem_width": 8}},
    "hf:facebook/sam-vit": {
        "window_size": 2,
        "backbone_args": {
            "vision_config": {
                "hidden_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "mlp_dim": 64,
                "image_size": 64,
                "output_channels": 32,
                "num_pos_feats": 16,
                "window_size": 2,
                "global_attn_indexes": [1, 3],
            },
            "prompt_encoder_config": {"hidden_size": 32, "image_size": 64},
            "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32},
        },
    },
    "moezoo": {"backbone_args": {"depth": 2, "embed_dim": 32}},
    "test": {"backbone_args": {"patch_size": 4, "depth": 2, "embed_dim": 32}},
}
DIFF_MOE = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 32,
    "num_heads": 2,
    "img_encoder_layers": 2,
    "fusion_layers": 1,
    "decoder_layers": 1,
    "mlp_ratio": 1.0,
    "dropout": 0.0,
    "vocab_size": 40,
    "max_text_len": 8,
    "text_embed_dim": 8,
}
ATTENTION_ROUTING = {
    "img_size": 16,
    "patch_grid_size": 4,
    "encoder_channels": 8,
    "encoder_layers": 2,
    "attention_hidden": 8,
    "big_hidden_dim": 32,
    "big_layers": 2,
    "small_hidden_dim": 8,
    "small_layers": 1,
    "embed_dim": 16,
    "crop_context": 1,
    "aggregator_dim": 24,
    "head_hidden_dim": 20,
    "dropout": 0.0,
    "budget_target": 0.3,
}
MULTISCALE = {
    "model_name": "moezoo_vit_figures",
    "img_size": (32, 16),
    "backbone_args": {"embed_dim": 16, "num_heads": 2},
    "num_classes": 5,
    "feat_dim": 24,
    "scales": (1, 4),
    "window_op": "depthwise",
    "hidden_dim": 32,
    "dropout": 0.0,
}
MOE_VIT = {
    "img_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 48,
    "representation_size": 24,
    "moe_layers": (1,),
    "num_experts": 4,
    "dispatch_dtype": None,
}
VMOE = {**MOE_VIT, "eval_capacity_factor": 2.0, "expert_dropout": 0.0}
"""Room for every choice in evaluation, so that an image's answer is its own; ``dispatch_dtype`` rounds what differs in
the last bit to what differs visibly."""
TWO = ("RGB", "NIR")
FAMILIES = {
    "diff_moe": DIFF_MOE,
    "attention_routing": ATTENTION_ROUTING,
    "multiscale_moe": MULTISCALE,
    "vmoe": VMOE,
    "soft_moe": MOE_VIT,
}
"""Those that are not a backbone with something added."""

DATA = {"in_channels": 1, "mean": (0.5,), "std": (0.5,)}
"""What models without a backbone differ in that changes nothing of what they are made of."""


def has_backbone(name):
    """Whether the model is a timm or transformers backbone with adapters."""
    return hasattr(model_config(name), "model_name") and not tells_identities(model_config(name))


def tells_identities(config):
    """Whether the model is one for re-identification, which holds a backbone as a part."""
    return hasattr(config, "modalities")


def routes_tokens(config):
    """Whether the model is a backbone whose own MLPs are experts."""
    return hasattr(config, "small_ratio")


def is_upcycled(config):
    """Whether the model is a backbone whose MLPs became mixtures of experts."""
    return getattr(config, "upcycles", False)


def backbone_kind(config):
    """What the model is made of, but for its size."""
    if not hasattr(config, "model_name") or tells_identities(config):
        family = type(config).__module__.split(".")[-2]
        return f"{family} captioner" if getattr(config, "captioner", False) else family
    return next(prefix for prefix in BY_BACKBONE if config.model_name.startswith(prefix))


def is_dense(config):
    """Whether it is a dense twin."""
    return getattr(config, "dense", False)


def tiny_overrides(name):
    """Keyword arguments for ``create_model(name, …)``."""
    config = model_config(name)
    if not has_backbone(name):
        family = backbone_kind(config).split()[0]
        if family == "multiscale_moe":
            return {**MULTISCALE, "modalities": TWO} if len(config.modalities) > 1 else MULTISCALE
        more = {"num_classes": min(config.num_classes, 10)}
        if family == "diff_moe":
            more |= {"text_encoder_layers": min(config.text_encoder_layers, 1), "top_k": 2}
        return {**FAMILIES[family], **more}
    backbone = backbone_kind(config)
    classes = {"num_classes": 5} if config.num_classes == 1000 else {}
    if is_upcycled(config):
        return {**_upcycled(config, backbone), **classes, **BY_BACKBONE[backbone]}
    adapter = {} if routes_tokens(config) else ADAPTER
    return {**adapter, **classes, **BY_BACKBONE[backbone]}


def _upcycled(config, backbone):
    last = {"moe_layers": ((1, 1),), "drop_path_rate": 0.0, "expert_dropout": 0.0} if backbone == "swin" else {}
    top_k = {"top_k": 2 if config.dense or config.model_name.startswith("vit_small") else 1}
    roomy = {"eval_capacity_factor": 4.0} if getattr(config, "capacity_factor", None) and backbone == "swin" else {}
    return {"moe_layers": "every2", "num_experts": 4, **last, **(top_k if hasattr(config, "top_k") else {}), **roomy}


def tiny_input_size(model):
    *before, height, width = example_shape(model)
    return (*before, min(height, 64), min(width, 64))  # convolutional backbones state 224 and take less


def is_classifier(name):
    config = model_config(name)
    return config.num_classes != 0 and not tells_identities(config)


def answer(model, images):
    """(B, anything): logits, the embedding of a model without a head, or all that a segmentation model returns; of a
    model for re-identification in training all scores and features."""
    output = model(images)
    if isinstance(output, list):
        return torch.cat([part for pair in output for part in pair], dim=1)
    if isinstance(output, torch.Tensor):
        return output
    plain = plain_answer(output)
    if plain is not output:
        return plain.flatten(1)
    tokens = output.vision_outputs.last_hidden_state.mean(1)
    return torch.cat([tokens, output.pred_masks.flatten(1), output.iou_scores.flatten(1)], dim=1)


def full_answer(model, images):
    """(B, anything) of all inputs that the model takes, so that every parameter takes part with :func:`aux_loss`."""
    if not getattr(model, "takes_text", False):
        return answer(model, images)
    text = torch.arange(len(images) * 6, device=images.device).view(len(images), 6) % 40
    mask = torch.arange(6, device=images.device).expand(len(images), -1) < 5
    output = model(images, text, mask)
    if output.logits is None:
        return torch.cosine_similarity(output.embeddings, output.text_features.sum(1))[:, None]
    both = output.logits if "image_logits" not in output else output.logits + output.image_logits
    return both.flatten(1)


def layers_run(model):
    """The MoE layers that images alone pass through."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MoELayer)}
    text = ("text_encoder.", "fusion.") if hasattr(model, "takes_text") else ()
    return [name for name in layers if not name.startswith(text)]


def is_routed(config):
    """Whether the model has MoE layers: not the dense twin, nor a control that computes all cells alike."""
    if tells_identities(config):
        return not is_dense(config) and (config.fusion == "moe" or config.structure != "flat")
    return not is_dense(config) and getattr(config, "compute", "attention") not in ("full", "cheap", "none")


def learns_routes(config):
    """Whether an auxiliary loss could ask something of its routers: they learn, and can be out of balance."""
    learns = getattr(config, "compute", "attention") == "attention" and getattr(config, "score", None) != "random"
    learns = learns and getattr(config, "routes", "mlp") == "mlp"
    slots = hasattr(config, "num_slots") and not hasattr(config, "entities")
    balanced = slots or getattr(config, "router", None) == "expert_choice"
    return is_routed(config) and learns and not balanced


def disturb(model):
    """Change the answers."""
    adapters = list(adapters_of(model).values())
    if hasattr(model, "necks"):
        last = next(iter(model.necks.values()))
    elif adapters:
        last = adapters[0].ffn.fc2 if hasattr(adapters[0], "ffn") else model.blocks[0].attn.proj
    elif hasattr(model, "layers"):
        last = model.layers[0].blocks[0].attn.proj
    elif hasattr(model, "blocks"):
        last = model.blocks[0].attn.proj
    else:
        last = model.img_encoder.blocks[0].attn.proj if hasattr(model, "img_encoder") else model.head.hidden
    with torch.no_grad():
        last.weight.zero_()


def make(name, **more):
    """A copy of the model of this name, every time with the same weights, as if it had just been built."""
    model, randomness = built(name, tuple(sorted(more.items())))
    torch.set_rng_state(randomness)
    return copy.deepcopy(model)


@functools.cache
def built(name, more):
    """The model, and the state of the random numbers after it: to find the places of adapters takes long."""
    torch.manual_seed(0)
    model = moezoo.create_model(name, **{**tiny_overrides(name), **dict(more)})
    if not routes_tokens(model.moezoo_config) and "features_only" not in dict(more):
        for path, adapter in adapters_of(model).items():
            torch.nn.init.normal_(adapter.ffn.fc2.weight, std=0.2)  # past step 0, so that everything takes part
            assert "entity_moe" in path
    return model, torch.get_rng_state()


def images_for(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *tiny_input_size(model), generator=generator)


def distinct_when_small(names):
    """The first of every group of names that differ in the size of their backbone alone, which is all one here."""
    seen = {}
    for name in names:
        if tells_identities(config := model_config(name)):
            # Of the variants that one modality has too, those of several.
            small = {**tiny_overrides(name), **({} if is_default(name) else {"modalities": TWO})}
            key = repr(model_config(name, **small))
            if key not in seen or len(config.modalities) > len(model_config(seen[key]).modalities):
                seen[key] = name
            continue
        if is_upcycled(config):  # the same backbones in all these families, and the same dense twins
            swin = backbone_kind(config) == "swin"
            router = "" if swin else getattr(config, "router", "")
            key = f"dense {swin}" if config.dense else name.partition("/")[0] + router
            seen.setdefault(f"upcycled {key}", name)
            continue
        same = {"model_name": backbone_kind(model_config(name))} if has_backbone(name) else DATA
        if name.startswith("diff_moe/"):
            same = {**same, "use_gradient_checkpointing": True}
        seen.setdefault(repr(model_config(name, **{**tiny_overrides(name), **same})), name)
    return list(seen.values())


def is_default(name):
    """Whether the name stands for what is built when its variant is left out."""
    return model_config(name) == model_config(name.partition(".")[0])


def one_per_layout(names):
    """The first default variant of every kind of backbone, and the first dense twin of every family."""
    seen = {}
    for name in names:
        config = model_config(name)
        if len(getattr(config, "modalities", TWO)) == 1 or (tells_identities(config) and is_dense(config)):
            continue  # one modality less, and an MLP in place of experts, are no other layout
        if (is_dense(config) or is_default(name)) and not routes_tokens(config) and not is_upcycled(config):
            twin = f"dense twin of {name.partition('/')[0]}"
            seen.setdefault(twin if is_dense(config) else backbone_kind(config), name)
    return list(seen.values())


def others_slow(names, fast):
    """``names`` as parameters; by default only those in ``fast`` run."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]

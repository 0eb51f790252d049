"""The sentences of a model card: what the model is, how it is used, and what nobody has measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 10
"""Names of classes on a card."""
NOTES = {"diff_moe": "Diff-MoE reads images and text, and has nothing to do with diffusion. "}
"""A sentence more on families whose name does not say it."""

UNROUTED = ("full", "cheap", "none")
"""Controls of attention routing that compute all cells alike."""


def finds_identities(config: Mapping[str, Any]) -> bool:
    """Whether the model gives features to find identities again by, which are not its classes."""
    return bool(config.get("modalities"))


def introduction(stored: Mapping[str, Any]) -> str:
    """One sentence on the model, from its configuration."""
    config, classes = stored["config"], stored["config"].get("num_classes")
    family = str(stored["name"]).partition("/")[0]
    kind = "dense twin of a vision Mixture-of-Experts" if config.get("dense") else "vision Mixture-of-Experts"
    experts = config.get("num_experts") or config.get("num_general_experts")
    answers = "writes a sentence about an image" if config.get("captioner") else "features in place of classes"
    if classes:
        answers = f"{classes} classes{_names(stored.get('label_names'))}"
    if finds_identities(config):
        learnt = f"tells {classes} identities apart" if classes else "tells identities apart"
        answers = f"{learnt} by {' and '.join(config['modalities'])} and gives features to find others again"
    facts = [
        f"`{family}` on the backbone `{config['model_name']}`" if config.get("model_name") else f"`{family}`",
        f"{experts} experts in each MoE layer" if experts else "",
        answers,
    ]
    told = f"A {kind}: {', '.join(filter(None, facts))}. {NOTES.get(family, '')}"
    return f"{told}Saved by moezoo {stored['moezoo_version']}."


def usage(stored: Mapping[str, Any], place: str) -> str:
    """Code that loads the model, and where it can that classifies, captions or embeds an image file."""
    code = f'import moezoo\n\nmodel = moezoo.create_model("{place}", pretrained=True).eval()'
    size = (stored.get("data") or {}).get("input_size")
    calls = None
    if finds_identities(stored["config"]):
        first, *others = stored["config"]["modalities"]
        file = f"{first}/image.jpg" if others else "image.jpg"
        beside = f"  # and {', '.join(f'{name}/image.jpg' for name in others)}" if others else ""
        code += f'\nfound = moezoo.eval.embed_files(model, ["{file}"]){beside}'
        code += "\nprint(found.paths, found.features.shape)"
    elif stored["config"].get("num_classes"):
        calls = ('["image.jpg"], top=3', "found.labels, found.probabilities")
    elif stored["config"].get("captioner"):
        calls = ('["image.jpg"]', "found.caption")
    if calls and size and size[0] in (1, 3):
        given, shown = calls
        code += (
            f"\nfor found in moezoo.eval.predict_files(model, {given}):\n    print(found.path, {shown}, found.error)"
        )
    return f"```python\n{code}\n```"


def dial(stored: Mapping[str, Any]) -> str:
    """How the compute of a model with a big and a small expert is set; empty for others."""
    config = stored["config"]
    if "budget_target" not in config or config.get("dense") or config.get("compute") in UNROUTED:
        return ""
    return "`model.set_budget(0.3)` gives the big MLP 30 % of every image, without training anew; `None` is as trained."


def compressed(stored: Mapping[str, Any]) -> str:
    """What was taken out of the model after its configuration had built it; empty where nothing was."""
    note = stored.get("compression") or {}
    facts = []
    if hidden := note.get("hidden"):
        facts.append(f"{len(hidden)} of its layers have fewer hidden units than the configuration says")
    if mode := note.get("int8_mode"):
        facts.append(f"its weights are int8 (`{mode}`), for evaluation alone")
    return f"The model was compressed: {', and '.join(facts)}." if facts else ""


def dense_twin(stored: Mapping[str, Any], place: str) -> str:
    """How to build the model's dense twin; empty where it has none."""
    config = stored["config"]
    if config.get("dense") is not False or config.get("compute", "attention") != "attention":
        return ""
    twin = "one MLP of the same active width in place of each MoE"
    if "budget_target" in config:
        twin = "one MLP for all cells, as wide as the FLOPs of the target ratio allow"
    return f'The dense twin has {twin}: `moezoo.create_model("{place}", dense=True)`, with fresh weights.'


def limits(stored: Mapping[str, Any], licence: str | None, base_model: str | None) -> str:
    """What is not known of the model, as a list."""
    config, metrics = stored["config"], stored.get("metrics") or {}
    measured = f"The figures above are of `{metrics['dataset']}`" if metrics.get("dataset") else None
    lines = [
        f"{measured}; nothing else was measured." if measured else "How well it does on a data set is not stated.",
        _always(config),
        f"It began as `{base_model}`, whose terms hold too." if base_model else "",
        f"Licence: {licence}." if licence else "The licence of these weights is not stated.",
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def _always(config: Mapping[str, Any]) -> str:
    """What the model answers even where there is no right answer."""
    if finds_identities(config):
        return "A gallery has a nearest image for every query, whether its identity is there or not."
    return "Any image gets one of its classes, whatever it shows." if config.get("num_classes") else ""


def _names(labels: Any) -> str:
    if not labels:
        return ""
    # Names of classes are data: none of them may end the code span it stands in.
    names = ", ".join(f"`{' '.join(str(label).replace('`', ' ').split())}`" for label in labels[:SHOWN])
    return f" ({names}{', …' if len(labels) > SHOWN else ''})"

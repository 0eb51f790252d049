"""Every code block of the documents runs, in order, in one place."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
import yaml
from command_line import command, process
from dataset_folders import cifar, fashion_mnist, few_digits, flickr8k
from image_files import save_digit
from safetensors.torch import save
from torchvision.datasets import CIFAR10

import moezoo
from moezoo.data import cifar as cifar_module
from moezoo.data.catalogue import CATALOGUE
from moezoo.moe.experts import experts
from moezoo.moe.routers import routers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    *("README.md", "MODEL_CARDS.md", "CONTRIBUTING.md", "docs/text.md", "docs/attention_routing.md", "docs/reid.md"),
    *("docs/explain.md", "docs/compress.md", "docs/search.md", "docs/federated.md", "docs/vmoe.md"),
)
ONE_EPOCH = [
    *("--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--set", "training.batch_size=128"),
    *("--set", "viz.dpi=40", "--set", "viz.images=3"),
]
SHORT = {
    **dict.fromkeys(("train", "quickstart", "diff-moe", "ablate"), ONE_EPOCH),
    "search edf": ["--samples", "2", "--epochs", "1", "--jobs", "1"],
    "search nas": ["--trials", "1", "--epochs", "1", "--workers", "1"],
    "federate": ["--rounds", "1", "--clients", "2", "--baselines", "none", "--set", "training.batch_size=128"],
}
"""What makes a command take seconds."""
TINY = "embed_dim=16 num_heads=2 img_encoder_layers=1 text_encoder_layers=1 fusion_layers=1 mlp_ratio=1 vocab_size=400"
"""What keeps a model of images and text small enough for a test."""
FEW = "data.train_identities=8 data.val_identities=4 data.test_identities=4 training.batch_size=16"
"""What keeps a set of sightings so."""
PAIRS = "data.train_images=256 data.val_images=64 data.test_images=64"
"""What keeps a set of shapes and sentences so."""
SHALLOW = (
    'sam_vit_base.last", expert_dim=256)',
    'sam_vit_base.last", expert_dim=256, '
    "backbone_args={'vision_config': {'num_hidden_layers': 2, 'global_attn_indexes': [1]}})",
)
"""Twelve layers of 4,096 tokens take long; the shapes are those of two."""
INSTALL = re.compile(r"python -m venv \.venv && \. \.venv/bin/activate && pip install -e \S+ && ")


def shortened(args):
    """What is added to a command that trains, so that it takes seconds."""
    short = SHORT.get(args[0], SHORT.get(" ".join(args[:2])))
    if short is not ONE_EPOCH:
        return short or []
    words = " ".join(args)
    settings = TINY if "diff-moe" in words or "diff_moe" in words else FEW if "multiscale_moe" in words else ""
    settings += f" {PAIRS}" if "shapes" in words else ""
    return [*ONE_EPOCH, *(part for pair in settings.split() for part in ("--set", pair))]


def blocks(name, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_blocks_run(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("vit_tiny_patch16_224")
    hub.put(
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        {"model.safetensors": save(model.state_dict())},
        lfs=("model.safetensors",),
    )
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
    transformers.Dinov2Model(transformers.Dinov2Config(**small)).save_pretrained(tmp_path / "dinov2")
    hub.put("facebook/dinov2-small", {file.name: file.read_bytes() for file in (tmp_path / "dinov2").iterdir()})
    hub.users["hf_docs"] = "you"
    monkeypatch.setenv("HF_TOKEN", "hf_docs")
    code = blocks(name, "python")
    assert code
    torch.manual_seed(0)
    namespace = {"__name__": "__main__"}
    for block in code:
        exec(compile(block.replace(*SHALLOW), name, "exec"), namespace)
    if "accuracy" in namespace:
        assert namespace["accuracy"] > 0.93


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "CONTRIBUTING.md" and blocks(name, "bash")])
def test_commands_run(name, hub, tmp_path, monkeypatch):
    """In one folder; those under torchrun and the lightest of the others in processes of their own."""
    monkeypatch.chdir(tmp_path)
    lines = [
        INSTALL.sub("", line.partition("  #")[0])
        for block in blocks(name, "bash")
        for line in block.splitlines()
        if line.strip()
    ]
    commands = [shlex.split(line) for line in lines if line != "pytest"]  # that one is running now
    assert commands
    hub.users["hf_docs"] = "you"
    monkeypatch.setenv("HF_TOKEN", "hf_docs")
    for i in range(4):
        save_digit(i, tmp_path / "images" / f"{i}.png")
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    moezoo.save_pretrained(model, tmp_path / "my-digits")
    torch.save(model.state_dict(), tmp_path / "best.pth")
    params, config = moezoo.models.vmoe.to_jax(moezoo.create_model("vmoe/digits"))
    np.savez(tmp_path / "checkpoint.npz", **params)
    (tmp_path / "config.json").write_text(json.dumps(config))
    fashion_mnist(tmp_path / "data")
    flickr8k(tmp_path / "data" / "flickr8k")
    monkeypatch.setattr(cifar_module, "CIFAR10", cifar(tmp_path / "data", CIFAR10, per_file=10))
    few_digits(monkeypatch)
    for first, *args in commands:
        if first == "torchrun":
            run = [sys.executable, "-m", "torch.distributed.run", *args, *ONE_EPOCH]
            result = subprocess.run(run, capture_output=True, text=True, timeout=550)
        else:
            assert first == "moezoo", first
            result = (process if args[0] == "list" else command)(*args, *shortened(args))
        assert result.returncode == 0, f"{first} {args}\n{result.stdout}\n{result.stderr}"


def test_the_readme_holds_one_command_for_each_job():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^python -m venv .*&& pytest$", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^python -m venv .*&& moezoo quickstart$", text, re.MULTILINE)) == 1


def test_links_inside_the_project_exist():
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text(encoding="utf-8")):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_the_scripts_of_clusters_are_well_formed():
    for block in blocks("README.md", "yaml"):
        assert yaml.safe_load(block)["kind"] == "Job"
    for block in blocks("README.md", "sh"):
        assert subprocess.run(["bash", "-n"], input=block, text=True).returncode == 0


def test_the_table_of_data_sets_names_each_of_them():
    section = README.partition("## Data sets")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(CATALOGUE)


def built_in(registry):
    return {name for name in registry if registry.get(name).__module__.startswith("moezoo.")}


def test_the_table_of_experts_says_which_paths_each_has():
    columns = ("loop", "sorted", "batched", "packed", "native", "grouped", "triton", "static")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|" + r" (✓?) ?\|" * len(columns), README, re.MULTILINE)
    assert {row[0] for row in rows} == built_in(experts)
    for name, *marks in rows:
        assert {path for path, mark in zip(columns, marks, strict=True) if mark} == set(experts.get(name).paths), name


def test_the_table_of_routers_names_each_of_them():
    (row,) = re.findall(r"^\| `softmax_topk`.*$", README, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(built_in(routers))

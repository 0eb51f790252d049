"""Whole models: what the file computes, what the JSON says, and that nothing is left behind or changed."""

import hashlib
import importlib.util
import json
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

import moezoo
from moezoo.data import input_options, load_dataset
from moezoo.errors import ConfigError, ExportError, InputError, MissingPackageError, OutputError
from moezoo.export import export_model
from moezoo.export.formats import FORMATS
from moezoo.moe import MoELayer
from moezoo.moe.experts import StackedMLP


@pytest.fixture(scope="module")
def digits():
    return moezoo.create_model("entity_moe/test_vit", pretrained=True)


@pytest.fixture(scope="module")
def exported(digits, tmp_path_factory):
    """The packaged model in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: export_model(digits, folder / f"digits.{name}", format=name) for name in FORMATS}


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_classifies_the_digits_as_the_model_does(digits, exported, format):
    test = load_dataset("digits", **input_options(digits)).test
    images, labels = torch.stack([image for image, _ in test]), torch.tensor([label for _, label in test])
    with torch.no_grad():
        expected = digits.eval()(images)
    (got,) = FORMATS[format].load(exported[format].file)(images)
    assert torch.equal(got.argmax(1), expected.argmax(1))
    assert (got.argmax(1) == labels).float().mean() > 0.9
    assert (got - expected).abs().max() <= FORMATS[format].limit * expected.abs().max()


def test_of_a_mapping_the_logits_are_exported(tmp_path):
    model = moezoo.create_model("diff_moe/digits").eval()
    exported = export_model(model, tmp_path / "digits.pt2", format="pt2")
    images = torch.randn(3, 1, 16, 16)
    (got,) = FORMATS["pt2"].load(exported.file)(images)
    torch.testing.assert_close(got, model(images).logits, rtol=1e-4, atol=1e-5)
    assert exported.parity.experts_matter


@pytest.mark.parametrize("format", FORMATS)
def test_the_check_reached_other_experts(exported, format):
    parity = exported[format].parity
    assert parity.pairs == 4
    assert parity.pairs_new > 0
    assert parity.experts_matter
    assert parity.batch_sizes == (3, 1)


@pytest.mark.parametrize("format", FORMATS)
def test_the_json_says_what_a_reader_needs(digits, exported, format):
    file, sidecar = exported[format].file, exported[format].sidecar
    content = json.loads(sidecar.read_text())
    assert sidecar.name == f"digits.{format}.json"
    assert content["name"] == "entity_moe/test_vit.last"
    assert content["weights_origin"] == digits.weights_origin
    assert content["config"]["num_experts"] == 4
    assert content["input"] == {"shape": ["batch", 1, 16, 16], "dtype": "float32"}
    assert content["data"]["mean"] == list(digits.pretrained_cfg["mean"])
    assert content["data"]["std"] == list(digits.pretrained_cfg["std"])
    assert content["label_names"] == list("0123456789")
    assert content["versions"]["moezoo"] == moezoo.__version__
    assert content["versions"]["torch"] == torch.__version__
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert content["files"] == {file.name: {"bytes": file.stat().st_size, "sha256": digest}}
    assert content["parity"]["pairs_new"] == exported[format].parity.pairs_new


def test_onnx_inputs_and_outputs_have_names(exported):
    session = onnxruntime.InferenceSession(exported["onnx"].file)
    assert [(x.name, x.shape) for x in session.get_inputs()] == [("input", ["batch", 1, 16, 16])]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [("output", ["batch", 10])]


def test_pt2_is_read_without_moezoo(digits, exported, tmp_path):
    images = torch.randn(5, 1, 16, 16)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch\n"
        f"model = torch.export.load({str(exported['pt2'].file)!r}).module()\n"
        f"torch.save(model(torch.load({str(tmp_path / 'images.pt')!r})), {str(tmp_path / 'logits.pt')!r})\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('moezoo', 'timm')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = digits.eval()(images)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_tells_nothing_of_this_machine(exported, format):
    content = exported[format].file.read_bytes()
    for path in (moezoo.__file__, timm.__file__, torch.__file__):
        assert path.rpartition("/")[0].encode() not in content


def test_the_model_is_left_as_it_was(tmp_path):
    model = moezoo.create_model("entity_moe/test_vit")
    model.blocks[0].eval()
    layers = [m for m in model.modules() if isinstance(m, MoELayer)]
    layers[0].path = "loop"
    modes = [m.training for m in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(model, tmp_path / "model.pt2", format="pt2")
    assert layers[0].path == "loop"
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_static_batch_takes_that_batch_alone(digits, tmp_path):
    exported = export_model(digits, tmp_path / "m.pt2", format="pt2", dynamic_batch=False, batch_size=3)
    run = FORMATS["pt2"].load(exported.file)
    assert run(torch.zeros(3, 1, 16, 16))[0].shape == (3, 10)
    with pytest.raises(Exception, match=r"size|shape"):
        run(torch.zeros(2, 1, 16, 16))
    assert json.loads(exported.sidecar.read_text())["input"]["shape"] == [3, 1, 16, 16]
    assert exported.parity.batch_sizes == (3,)


def test_without_a_check_the_json_says_so(digits, tmp_path):
    exported = export_model(digits, tmp_path / "m.pt2", format="pt2", check=False)
    assert exported.parity is None
    assert json.loads(exported.sidecar.read_text())["parity"] is None


def test_a_dense_twin_and_a_plain_module_are_exported(tmp_path):
    twin = moezoo.create_model("entity_moe/test_vit.dense")
    assert export_model(twin, tmp_path / "twin.pt2", format="pt2").parity.pairs == 0
    exported = export_model(nn.Linear(3, 2), tmp_path / "plain.pt2", format="pt2", input_size=(3,))
    content = json.loads(exported.sidecar.read_text())
    assert (content["name"], content["config"], content["label_names"]) == (None, None, None)


def test_the_opset_asked_for_is_the_opset_written(tmp_path):
    layer = MoELayer(8, num_experts=2, hidden_dim=5)
    for opset in (18, 21):
        file = export_model(layer, tmp_path / "m.onnx", input_size=(5, 8), opset=opset).file
        assert next(entry.version for entry in onnx.load(file).opset_import if not entry.domain) == opset


@pytest.mark.parametrize(
    ("file", "args", "words"),
    [
        ("m.onnx", {"format": "onx"}, "Did you mean: onnx"),
        ("m.bin", {}, r"must end in '\.onnx'"),
        ("m.pt2", {"format": "pt2", "opset": 20}, "only ONNX files have one"),
        ("m.onnx", {"opset": 11}, "at least 18"),
        ("m.onnx", {"batch_size": 4}, "no meaning with dynamic_batch=True"),
        ("m.onnx", {"dynamic_batch": False, "batch_size": 0}, "batch_size=0"),
        ("m.onnx", {"input_size": 16}, "input_size=16"),
        ("m.onnx", {"input_size": (1, 0, 16)}, "input_size=0"),
    ],
)
def test_wrong_arguments_are_named(digits, file, args, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        export_model(digits, tmp_path / file, **args)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_way_to_install_it(digits, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(MissingPackageError, match=r'onnxscript, not installed here: pip install "moezoo\[export\]"'):
        export_model(digits, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_only_float32_is_exported(tmp_path):
    with pytest.raises(InputError, match=r"bfloat16.*model\.float\(\)"):
        export_model(nn.Linear(3, 2).bfloat16(), tmp_path / "m.pt2", format="pt2", input_size=(3,))


def test_a_model_without_an_input_size_says_what_to_pass(tmp_path):
    with pytest.raises(InputError, match="input_size="):
        export_model(nn.Linear(3, 2), tmp_path / "m.pt2", format="pt2")
    model = nn.Linear(3, 2)
    model.pretrained_cfg = {"mean": (0.5,)}
    with pytest.raises(InputError, match=r"Linear has no pretrained_cfg that says its input_size; pass input_size="):
        export_model(model, tmp_path / "m.pt2", format="pt2")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_traced_leaves_nothing(tmp_path):
    class Loop(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="the model cannot be traced"):
        export_model(Loop(), tmp_path / "m.pt2", format="pt2", input_size=(3,))
    assert not list(tmp_path.iterdir())


def test_experts_without_the_path_are_named(tmp_path):
    class Own(StackedMLP):
        paths = ("loop",)

    layer = MoELayer(8, num_experts=2)
    layer.experts = Own(8, 8, 2)
    with pytest.raises(ExportError, match=r"experts of '0' \(Own\) cannot be exported"):
        export_model(nn.Sequential(layer), tmp_path / "m.pt2", format="pt2", input_size=(5, 8), check=False)


def test_a_file_in_the_way_of_the_folder_is_an_output_error(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        export_model(digits, tmp_path / "file" / "m.pt2", format="pt2")


def shaken(model):
    """With parameters no longer zero, so that the experts reach the output."""
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model


def vit_tiny():
    return shaken(moezoo.create_model("entity_moe/vit_tiny.last", img_size=64, num_classes=10))


def swin_tiny():
    return shaken(moezoo.create_model("entity_moe/swin_tiny", img_size=64, num_classes=10, expert_dim=64))


def resnet18():
    return shaken(moezoo.create_model("entity_moe/resnet18", img_size=64, num_classes=10, expert_dim=64))


def windows():
    args = {"entities": "windows", "window_size": 3, "expert_k": 2, "capacity_factor": 1.25}
    return shaken(moezoo.create_model("entity_moe/vit_tiny.last", img_size=64, num_classes=10, **args))


def upcycled():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10)
    moezoo.upcycle(model, "last_half", num_experts=4, top_k=2, init="noise")
    # The configuration that timm gave does not know the size that it was given.
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    return model


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("build", [vit_tiny, swin_tiny, resnet18, windows, upcycled])
def test_backbones_are_exported(build, format, tmp_path):
    parity = export_model(build(), tmp_path / f"m.{format}", format=format).parity
    assert parity.pairs_new > 0
    assert parity.experts_matter


def test_while_tracing_no_kernel_of_attention_is_chosen(tmp_path):
    """On a GPU the choice would limit the batch."""

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = timm.create_model("test_vit", num_classes=3)

        def forward(self, x):
            fast.append(torch.backends.cuda.mem_efficient_sdp_enabled() or torch.backends.cuda.flash_sdp_enabled())
            return self.body(x)

    fast = []
    model = Attends().eval()
    file = export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(3, 160, 160), check=False).file
    assert not fast[-1]
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    graph = torch.export.load(file).graph
    assert any(node.target is torch.ops.aten.scaled_dot_product_attention.default for node in graph.nodes)

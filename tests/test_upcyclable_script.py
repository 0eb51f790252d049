"""The scan for MLPs in timm's architectures: its grades, its reasons, and taking up where a run was cut off."""

import json

from benchmark_scripts import run_script


def scan(out, *args):
    """Without processes of its workers, which have tests of their own."""

    def here(function, tasks, jobs, limit):
        return ((task, function(*task), "") for task in tasks)

    return run_script("upcyclable", "--out", out, *args, run_all=here)


def test_architectures_are_graded_with_reasons_and_not_asked_twice(tmp_path):
    scan(tmp_path, "test_vit")
    log = tmp_path / "upcyclable.jsonl"
    first = json.loads(log.read_text())
    assert (first["family"], first["grade"], first["mlps"], first["reason"]) == ("vision_transformer", "all", 6, "")

    log.write_text(json.dumps(first | {"seconds": -1}) + '\n{"arch": "test_resn')  # a run that was killed
    printed = scan(tmp_path, "test_vit", "test_resnet", "efficientformer_l1")
    assert printed == (tmp_path / "upcyclable.md").read_text() + "\n"
    assert "| vision_transformer | 1 | 1 | 0 | 0 | 0 | 6 |" in printed
    assert "| **all** | **3** | **1 (33.3%)** | **0 (0.0%)** | **1 (33.3%)** | **1 (33.3%)** | |" in printed
    assert "| resnet | no MLP in BasicBlock, Bottleneck | test_resnet |" in printed
    result = json.loads((tmp_path / "upcyclable.json").read_text())
    assert result["grades"] == {"all": 1, "last_half": 0, "some": 1, "none": 1}
    rows = {row["arch"]: row for row in result["rows"]}
    assert rows["test_vit"]["seconds"] == -1
    assert rows["efficientformer_l1"]["mlps"] == 1
    assert rows["efficientformer_l1"]["reason"].startswith("no MLP in MetaBlock2d")

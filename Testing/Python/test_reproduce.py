"""The reproducibility experiment, the run manifest, and what deterministic trainings must not use."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from volume_toys import config, source

from LiverMarginLib.cli import main
from LiverMarginLib.errors import InputError
from LiverMarginLib.jobs.reproduce import ReproduceJob
from LiverMarginLib.training.reproducibility import Run, Setup, by_setup, distinct, draw_spread, spread, summary
from LiverMarginLib.training.trainer import train

TINY = ["--set", "volume.patch=[16,16,16]", "--set", "volume.spacing=[12,12,12]", "--set", "model_options.widths=[4,8]"]
TINY += ["--set", "steps_per_epoch=2", "--epochs", "1", "--phantoms", "2", "--validation-phantoms", "1"]
TINY += ["--device", "cpu", "--set", "threads=1"]


def test_deterministic_trainings_are_one_result_and_random_ones_are_not(tmp_path, capsys):
    words = ["reproduce", "--setup", "deterministic", "random", "--runs", "2", "-o", str(tmp_path / "out"), *TINY]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["setups"]
    assert result["deterministic"]["distinct_results"] == 1
    assert result["random"]["distinct_results"] == 2
    assert result["deterministic"]["iou"]["liver"]["deviation"] == 0
    assert {"liver", "tumour"} == set(result["random"]["iou"])
    assert (tmp_path / "out" / "runs.csv").read_text().count("\n") == 5
    assert (tmp_path / "out" / "spread.png").read_bytes()[:4] == b"\x89PNG"
    manifest = json.loads((tmp_path / "out" / "deterministic-2" / "manifest.json").read_text())
    assert manifest["deterministic"] and manifest["seed"] == result["deterministic"]["seeds"][1]
    assert manifest["results"]["weights_sha256"] == result["deterministic"]["weights_sha256"][1]


def run(number: int, digest: str, liver: float, setup: Setup = Setup.SEED) -> Run:
    return Run(setup, number, 0, digest, {"liver": liver, "tumour": float("nan")}, 1.0)


def test_the_spread_is_that_of_the_statistics_module():
    import statistics

    values = [0.8, 0.85, 0.79]
    found = spread([run(n, str(n), value) for n, value in enumerate(values)], "liver")
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.deviation == pytest.approx(statistics.stdev(values))
    assert (found.minimum, found.maximum) == (0.79, 0.85)


def test_results_are_counted_by_their_weights_and_a_missing_label_is_no_number():
    runs = [run(1, "a", 0.8), run(2, "b", 0.8), run(3, "a", 0.8, Setup.RANDOM)]
    assert distinct(runs) == 2
    assert list(by_setup(runs)) == [Setup.SEED, Setup.RANDOM]
    values = summary(runs)["seed"]
    assert values["distinct_results"] == 2
    assert values["iou"]["tumour"]["mean"] != values["iou"]["tumour"]["mean"]
    assert draw_spread(runs)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"setups": ("lucky",)}, "no setup 'lucky'"), ({"runs": 0}, "nothing to repeat"), ({"setups": ()}, "nothing")],
)
def test_experiments_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ReproduceJob(folder=str(tmp_path / "new"), **changes).execute(lambda event: None, None)


def test_a_folder_that_is_there_is_not_written_into(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        ReproduceJob(folder=str(tmp_path)).execute(lambda event: None, None)


def test_another_seed_gives_other_weights_and_the_same_one_the_same(tmp_path):
    results = [train(config(tmp_path / str(n), seed=seed), source(1), source(2)) for n, seed in enumerate((1, 1, 2))]
    hashes = [result.weights_sha256 for result in results]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_run_manifest_says_what_one_needs_to_repeat_the_training(tmp_path):
    result = train(config(tmp_path / "out"), source(1, 3), source(2))
    values = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"livermargin", "python", "torch", "numpy", "scipy", "cuda", "cudnn"} <= set(values["versions"])
    assert {"commit", "changed"} == set(values["source"])
    assert values["machine"]["device"] == "cpu" and values["machine"]["threads"] == 1
    assert values["data"]["train"] == {"items": 2, "patients": 2, "sha256": source(1, 3).fingerprint()}
    assert values["data"]["validation"]["sha256"] == source(2).fingerprint()
    assert values["results"]["weights_sha256"] == result.weights_sha256
    assert "patient" not in json.dumps(values["data"]).replace('"patients"', "")


# ---- what deterministic trainings must not use

# PyTorch's notes on reproducibility and mlf-core's linter (which misses six of its own for want of commas): operations
# whose result or gradient is summed in no fixed order on a GPU.
FORBIDDEN = {
    *("index_add", "index_add_", "index_copy", "index_put", "put_", "scatter_add", "scatter_add_", "scatter_reduce"),
    *("bincount", "histc", "embedding_bag", "EmbeddingBag", "repeat_interleave", "kthvalue", "median", "ctc_loss"),
    *("CTCLoss", "NLLLoss", "NLLLoss2d", "nll_loss", "cross_entropy", "CrossEntropyLoss", "gather", "take_along_dim"),
    *("AvgPool3d", "avg_pool3d", "MaxPool3d", "max_pool3d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"),
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "AdaptiveMaxPool2d", "adaptive_max_pool2d", "FractionalMaxPool2d"),
    *("FractionalMaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "ReflectionPad1d", "ReflectionPad2d"),
    *("ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d", "grid_sample", "interpolate"),
}
# Used where no gradient flows: varying the input, under `torch.no_grad`.
WITHOUT_GRADIENT = {"volume_augmentation.py": {"grid_sample"}, "augmentation.py": {"grid_sample", "interpolate"}}
LEARNING = ["models/unet3d.py", "models/unet.py", "training/volume_losses.py", "training/volume_task.py"]
LEARNING += ["training/volume_augmentation.py", "training/augmentation.py", "training/engine.py", "training/filters.py"]


def torch_names(tree: ast.AST) -> set[str]:
    """Names of attributes that are called, but for those of numpy."""
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("np", "numpy"))
    }


@pytest.mark.parametrize("name", LEARNING)
def test_what_learns_uses_no_operation_that_is_summed_in_no_fixed_order(name):
    tree = ast.parse((REPOSITORY / "LiverMarginLib" / name).read_text())
    assert torch_names(tree) & FORBIDDEN <= WITHOUT_GRADIENT.get(Path(name).name, set())


def test_the_list_finds_what_it_forbids():
    assert torch_names(ast.parse("functional.cross_entropy(x, y)\nnp.bincount(x)")) & FORBIDDEN == {"cross_entropy"}


def test_torchs_own_switch_is_on_in_every_step_of_a_deterministic_training_and_off_afterwards(tmp_path, monkeypatch):
    from LiverMarginLib.training.volume_task import VolumeTask

    seen = []
    learn = VolumeTask.learn

    def watched(self, model, batch):
        seen.append(
            (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
        )
        with pytest.raises(RuntimeError, match="deterministic"):  # an operation that torch knows to be none
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)
        return learn(self, model, batch)

    monkeypatch.setattr(VolumeTask, "learn", watched)
    train(config(tmp_path / "out"), source(1), source(2))
    assert seen and set(seen) == {(True, False)}
    assert not torch.are_deterministic_algorithms_enabled()

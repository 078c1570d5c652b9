"""Who may import whom: the rules of docs/architecture.md, held by reading the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

LIBRARY = REPOSITORY / "LiverMarginLib"
HEAVY = {"torch", "torchvision", "detectron2", "onnxruntime", "monai", "torchio"}
READING = {"SimpleITK", "pydicom", "highdicom", "vtk", "vtkmodules"}


def imported(path: Path, at_load_only: bool = False) -> set[str]:
    """Top-level names of the packages that a file imports; `LiverMarginLib.x` counts as such."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    nodes = tree.body if at_load_only else list(ast.walk(tree))
    if at_load_only:  # conditions and try blocks at file scope run at load time too; type checking does not
        nodes = [n for top in tree.body if not _is_type_checking(top) for n in _not_in_functions(top)]
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name if name.startswith("LiverMarginLib") else name.partition(".")[0] for name in names}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _not_in_functions(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return []
    return [node] + [found for child in ast.iter_child_nodes(node) for found in _not_in_functions(child)]


def files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (LIBRARY / room).rglob("*.py"))


@pytest.mark.parametrize("path", files("metrics"), ids=lambda p: p.name)
def test_metrics_need_numpy_and_scipy_alone(path):
    foreign = {
        n for n in imported(path) if n in HEAVY | READING or n.startswith(("LiverMarginLib.io", "LiverMarginLib.m"))
    }
    assert {name for name in foreign if not name.startswith("LiverMarginLib.metrics")} == set()


@pytest.mark.parametrize("path", files("io", "datasets"), ids=lambda p: p.name)
def test_reading_and_writing_never_import_torch_or_models(path):
    assert not {
        n for n in imported(path) if n in HEAVY or n.startswith(("LiverMarginLib.models", "LiverMarginLib.inf"))
    }


@pytest.mark.parametrize("path", files("models"), ids=lambda p: p.name)
def test_models_never_see_files_of_patients(path):
    names = imported(path)
    assert not names & READING
    assert not {name for name in names if name.startswith("LiverMarginLib.io.") and name != "LiverMarginLib.io.atomic"}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "LiverMargin").rglob("*.py")), ids=lambda p: p.name)
def test_the_module_loads_with_the_standard_library_slicer_and_numpy(path):
    allowed = set(sys.stdlib_module_names) | {
        "slicer",
        "qt",
        "ctk",
        "vtk",
        "numpy",
        "LiverMarginLib",
        "LiverMarginPanels",
    }
    assert {name.partition(".")[0] for name in imported(path, at_load_only=True)} <= allowed


def test_slicer_is_touched_in_one_room_of_the_library_only():
    users = {p.parent for p in LIBRARY.rglob("*.py") if imported(p) & {"slicer", "qt", "ctk"}}
    assert users == {LIBRARY / "mrml"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def modules_that_load_torch() -> set[str]:
    """Modules that import a heavy package at load time, themselves or through another module of the library."""
    needs = {module_name(path): imported(path, at_load_only=True) for path in LIBRARY.rglob("*.py")}
    heavy = {name for name, packages in needs.items() if packages & HEAVY}
    while more := {name for name, packages in needs.items() if packages & heavy} - heavy:
        heavy |= more
    return heavy


def test_the_library_imports_without_torch_and_without_slicer():
    """What the panels need at load time: jobs, events, bundles' manifests, the comparison, the command line."""
    names = {module_name(path) for path in LIBRARY.rglob("*.py")} - {"LiverMarginLib.__main__"}
    code = (
        "import sys, importlib\n"
        f"for name in {sorted(HEAVY)!r}: sys.modules[name] = None\n"
        f"for name in {sorted(names - modules_that_load_torch())!r}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# What runs a network by torch; `inference.backends` loads it when torch was chosen.
TORCH_BACKEND = {
    f"LiverMarginLib.inference.{name}"
    for name in ("torch_backend", "arithmetic", "captured_graph", "transfers", "device_labels", "device_slices")
}


def test_only_networks_their_training_and_what_runs_them_by_torch_load_it_with_the_file():
    """Everything else imports it inside functions."""
    assert {name.split(".")[1] for name in modules_that_load_torch() - TORCH_BACKEND} <= {"models", "training"}


@pytest.mark.parametrize(
    "name",
    [
        "models.manifest",
        "models.bundle",
        "models.store",
        "models.architectures",
        "training.config",
        "jobs",
        "comparison",
    ],
)
def test_what_a_panel_needs_does_not_load_torch(name):
    assert f"LiverMarginLib.{name}" not in modules_that_load_torch()


def test_the_library_does_not_print():
    for path in LIBRARY.rglob("*.py"):
        if path.name == "cli.py" or path.parent.name == "commands":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path

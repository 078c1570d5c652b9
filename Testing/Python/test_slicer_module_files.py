"""The module's files agree with each other: what code and .ui files name is there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from conftest import REPOSITORY

MODULE = REPOSITORY / "LiverMargin"
PANELS = MODULE / "LiverMarginPanels"
UI = MODULE / "Resources" / "UI"
PYTHON_OF_UI = {
    "LiverMargin": MODULE / "LiverMargin.py",
    **{path.stem: PANELS / f"{path.stem.removesuffix('Panel').lower()}_panel.py" for path in UI.glob("*Panel.ui")},
}

BASE = PANELS / "panel.py"


def code_of(name: str) -> str:
    """The code of a panel, with that of its base and of the files that are called after it."""
    start = name.removesuffix("Panel").lower()
    code = "".join(path.read_text() for path in {PYTHON_OF_UI[name], *PANELS.glob(f"{start}_*.py")})
    return code + BASE.read_text() if "(RunPanel" in code else code


def elements(name: str, tag: str) -> list[xml.etree.ElementTree.Element]:
    return list(xml.etree.ElementTree.parse(UI / f"{name}.ui").iter(tag))


def widget_names(name: str) -> list[str]:
    return [element.get("name") for element in elements(name, "widget")]


def parameters_in_ui(name: str) -> dict[str, str]:
    return {
        prop[0].text: element.get("name")
        for element in elements(name, "widget")
        for prop in element.findall("property")
        if prop.get("name") == "SlicerParameterName"
    }


def test_every_panel_has_its_ui_file_and_the_other_way_round():
    assert {path.name for path in PANELS.glob("*_panel.py")} == {
        path.name for name, path in PYTHON_OF_UI.items() if name != "LiverMargin"
    }
    assert len(PYTHON_OF_UI) == len(list(UI.glob("*.ui")))


@pytest.mark.parametrize("name", PYTHON_OF_UI)
def test_every_widget_that_code_names_is_in_the_ui_file(name):
    used = set(re.findall(r"(?:\bself\.ui|(?<![\w.])ui)\.(\w+)", code_of(name)))
    assert used and used <= set(widget_names(name))


@pytest.mark.parametrize("name", PYTHON_OF_UI)
def test_every_button_of_a_panel_does_something(name):
    """A button that no code connects would be dead."""
    buttons = {
        element.get("name")
        for element in elements(name, "widget")
        if element.get("class") in ("QPushButton", "QToolButton")
    }
    code = code_of(name)
    assert {button for button in buttons if f"connect(ui.{button}," not in code} == set()


@pytest.mark.parametrize("name", PYTHON_OF_UI)
def test_names_in_a_ui_file_are_unique_and_its_selectors_get_the_scene(name):
    names = widget_names(name)
    assert len(names) == len(set(names))
    root = elements(name, "widget")[0]
    assert (root.get("class"), root.get("name")) == ("qMRMLWidget", name)
    selectors = {e.get("name") for e in elements(name, "widget") if e.get("class").endswith("NodeComboBox")}
    connected = {
        connection.find("receiver").text
        for connection in elements(name, "connection")
        if connection.find("slot").text.startswith("setMRMLScene")
    }
    assert connected == selectors


@pytest.mark.parametrize("name", PYTHON_OF_UI)
def test_every_widget_class_is_qts_or_declared(name):
    declared = {element.find("class").text for element in elements(name, "customwidget")}
    used = {element.get("class") for element in elements(name, "widget")}
    assert {kind for kind in used if not kind.startswith("Q")} == declared


def test_every_parameter_of_a_ui_file_is_a_field_of_the_parameter_node_and_connected_once():
    tree = ast.parse((PANELS / "parameter_node.py").read_text())
    fields = {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    named = [parameter for name in PYTHON_OF_UI for parameter in parameters_in_ui(name)]
    assert named and set(named) <= fields
    assert len(named) == len(set(named))
    by_hand = {  # lists that no connector of Slicer's can hold
        "models",
        "ownModels",
        "denoiser",
        "compareOrgan",
        "comparePredictions",
        "comparePredictionOrgans",
        "trainProfile",
        "trainInitial",
    }
    assert fields - set(named) == by_hand


def test_a_parameter_that_is_ticked_by_default_is_ticked_in_the_ui_file_too():
    tree = ast.parse((PANELS / "parameter_node.py").read_text())
    defaults = {
        node.target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant)
    }
    for name in PYTHON_OF_UI:
        boxes = {e.get("name"): e for e in elements(name, "widget") if e.get("class") == "QCheckBox"}
        for parameter, widget in parameters_in_ui(name).items():
            if widget in boxes:
                ticked = [p[0].text for p in boxes[widget].findall("property") if p.get("name") == "checked"]
                assert (ticked == ["true"]) == defaults[parameter], widget


def test_resources_that_code_names_exist():
    for path in MODULE.rglob("*.py"):
        for resource in re.findall(r'resourcePath\("([^"]+)"\)', path.read_text()):
            assert (MODULE / "Resources" / resource).is_file(), resource


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_translated_texts_are_plain_strings(path):
    """Slicer's tools collect the arguments of `_` and cannot read an f-string."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate"):
            assert all(isinstance(argument, ast.Constant) for argument in node.args), ast.unparse(node)


@pytest.mark.slicer
def test_the_module_and_its_panels_load_without_torch_onnxruntime_and_qt():
    """With stand-ins for what slicer-core lacks; nothing heavy may be asked for at load time."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnxruntime', 'skimage', 'highdicom', 'pydicom', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import pytest\n"
        "from slicer_stand_ins import install\n"
        "install(pytest.MonkeyPatch())\n"
        "import LiverMargin\n"
        "assert LiverMargin.LiverMarginWidget and LiverMargin.LiverMarginLogic\n"
        "assert 'SimpleITK' not in sys.modules\n"
    )
    paths = [REPOSITORY, MODULE, Path(__file__).parent]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n{code}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

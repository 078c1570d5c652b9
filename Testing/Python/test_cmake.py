"""The extension's CMake files: a Python file that is not listed is missing from the installed extension only."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY

# What Slicer's macro does with the lists, reduced to the install rules (WITH_SUBDIR keeps the package's folders).
STAND_IN = """
set(Slicer_INSTALL_QTSCRIPTEDMODULE_LIB_DIR lib/Slicer/qt-scripted-modules)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(M "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${M_SCRIPTS} ${M_RESOURCES})
    get_filename_component(folder ${file} DIRECTORY)
    if(M_WITH_SUBDIR)
      set(folder ${M_NAME}/${folder})
    endif()
    install(FILES ${file} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULE_LIB_DIR}/${folder} COMPONENT RuntimeLibraries)
  endforeach()
endmacro()
"""


def listed(cmake_file: Path) -> set[str]:
    text = re.sub(r"#[^\n]*", "", cmake_file.read_text())
    return set(re.findall(r"[\w./${}-]+\.(?:py|ui|png|txt|json|csv)\b", text))


def files_below(folder: Path, *suffixes: str) -> set[str]:
    return {
        str(path.relative_to(folder).as_posix())
        for path in folder.rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts and path.name != "CMakeLists.txt"
    }


def test_every_python_file_of_the_library_is_listed_in_cmake():
    folder = REPOSITORY / "LiverMarginLib"
    assert listed(folder / "CMakeLists.txt") == files_below(folder, ".py")


def test_every_file_of_the_module_is_listed_in_cmake():
    folder = REPOSITORY / "LiverMargin"
    names = {name.replace("${MODULE_NAME}", "LiverMargin") for name in listed(folder / "CMakeLists.txt")}
    assert names == files_below(folder, ".py", ".ui", ".png", ".txt")


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_library_and_the_models_land_beside_the_module(tmp_path):
    stand_in = tmp_path / "slicer"
    stand_in.mkdir()
    (stand_in / "SlicerConfig.cmake").write_text(f"set(Slicer_USE_FILE {stand_in}/use.cmake)\n")
    (stand_in / "use.cmake").write_text(STAND_IN)
    (stand_in / "nothing.cmake").write_text("")
    subprocess.run(
        [
            "cmake", "-S", REPOSITORY, "-B", tmp_path / "build", f"-DSlicer_DIR={stand_in}", "-DBUILD_TESTING=OFF",
            f"-DSlicer_EXTENSION_GENERATE_CONFIG={stand_in}/nothing.cmake",
            f"-DSlicer_EXTENSION_CPACK={stand_in}/nothing.cmake",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "installed"], check=True, capture_output=True
    )
    modules = tmp_path / "installed/lib/Slicer/qt-scripted-modules"
    assert (modules / "LiverMargin.py").is_file()
    for name in files_below(REPOSITORY / "LiverMarginLib", ".py"):
        assert (modules / "LiverMarginLib" / name).is_file()
    for card in (REPOSITORY / "Resources/Models").glob("*/model.json"):
        assert (modules / "LiverMarginLib/Resources/Models" / card.parent.name / "model.json").is_file()

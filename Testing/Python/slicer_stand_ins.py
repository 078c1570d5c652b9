"""What the tests of the Slicer module share: processes, a clock, and widgets that do what the test says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import types
import xml.etree.ElementTree
from pathlib import Path
from typing import ClassVar

import pytest
from LiverMarginPanels.signals import Signal
from LiverMarginPanels.worker_client import Command

COMMAND = Command("python", Path())
UNCHECKED, CHECKED = 0, 2
READY = {"event": "ready", "protocol": 1, "pid": 4711}


class FakeProcess:
    """Records what it is told; the test plays the worker's part."""

    def __init__(self) -> None:
        self.output, self.errors, self.ended, self.not_started = Signal(), Signal(), Signal(), Signal()
        self.written = b""
        self.closed = False
        self.killed: list[int | None] = []

    def start(self, command: Command) -> None:
        self.command = command

    def write(self, data: bytes) -> None:
        self.written += data

    def close_input(self) -> None:
        self.closed = True

    def kill(self, leader: int | None) -> None:
        self.killed.append(leader)

    @property
    def job(self) -> dict:
        return json.loads(self.written)

    def say(self, *events: dict) -> None:
        self.output.emit(b"".join(json.dumps(event).encode() + b"\n" for event in events))


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, object]] = []

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float, function) -> None:
        self._due.append((self.now + seconds, function))

    def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [entry for entry in self._due if entry[0] <= end]:
            entry = min(due, key=lambda entry: entry[0])
            self._due.remove(entry)
            self.now = max(self.now, entry[0])
            entry[1]()
        self.now = end


class RealProcess:
    """The worker as a real process; `wait` plays the event loop."""

    def __init__(self) -> None:
        self.output, self.errors, self.ended, self.not_started = Signal(), Signal(), Signal(), Signal()

    def start(self, command: Command) -> None:
        self._popen = subprocess.Popen(
            [command.program, *command.arguments], cwd=command.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._log = b""
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def _read_log(self) -> None:
        self._log = self._popen.stderr.read()

    def write(self, data: bytes) -> None:
        self._popen.stdin.write(data)
        self._popen.stdin.flush()

    def close_input(self) -> None:
        self._popen.stdin.close()

    def kill(self, leader: int | None) -> None:
        self._popen.kill()

    def wait(self) -> None:
        while data := self._popen.stdout.read1(100):
            self.output.emit(data)
        code = self._popen.wait(timeout=60)
        self._reader.join()
        self.errors.emit(self._log)
        self.ended.emit(code, code < 0)


class Widget:
    """A widget of PythonQt as far as the panels use one: properties without brackets, signals by signature.

    What is not here raises AttributeError, as it does in the application.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.text = self.title = self.toolTip = self.currentPath = ""
        self.visible = self.enabled = True
        self.checked = False
        self.currentIndex = -1
        self.items: list = []
        self.range: tuple | None = None
        self.slots: dict[str, list] = {}

    def connect(self, signal: str, slot) -> bool:
        self.slots.setdefault(signal, []).append(slot)
        return True

    def disconnect(self, signal: str, slot) -> bool:
        self.slots[signal].remove(slot)
        return True

    def emit(self, signal: str, *arguments) -> None:
        for slot in list(self.slots[signal]):
            slot(*arguments)

    def click(self) -> None:
        assert self.enabled, f"{self.name} is greyed out: {self.toolTip}"
        self.emit("clicked()")

    def blockSignals(self, blocked: bool) -> bool:
        return False

    def clear(self) -> None:
        self.items, self.currentIndex = [], -1

    def addItem(self, item) -> None:
        self.items.append(item)
        self.currentIndex = max(0, self.currentIndex)

    @property
    def count(self) -> int:
        return len(self.items)

    def itemText(self, index: int) -> str:
        return self.items[index]

    def setItemText(self, index: int, text: str) -> None:
        self.items[index] = text

    def checkedNodes(self) -> tuple:
        return tuple(self.items)

    def setCheckState(self, node: object, state: int) -> None:
        if state == CHECKED and node not in self.items:
            self.items.append(node)

    def setCurrentIndex(self, index: int) -> None:
        self.currentIndex = index

    def choose_index(self, index: int) -> None:
        """What a user does to a box."""
        self.currentIndex = index
        self.emit("currentIndexChanged(int)", index)

    def toggle(self, checked: bool) -> None:
        """What a user does to a check box."""
        self.checked = checked
        self.emit("toggled(bool)", checked)

    def setCurrentPath(self, path: str) -> None:
        self.currentPath = path

    def setRange(self, low: int, high: int) -> None:
        self.range = low, high

    def setValue(self, value: int) -> None:
        self.value = value

    def setFormat(self, text: str) -> None:
        self.format = text

    def layout(self) -> Widget:
        return self

    def addWidget(self, widget) -> None:
        self.items.append(widget)


class ListWidget(Widget):
    """A QListWidget; a click on a box or a line is `tick` or `choose`."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.currentRow = -1

    def item(self, row: int) -> Item:
        return self.items[row]

    def setCurrentRow(self, row: int) -> None:
        self.currentRow = row

    def tick(self, row: int, ticked: bool = True) -> None:
        self.items[row].setCheckState(CHECKED if ticked else UNCHECKED)
        self.emit("itemChanged(QListWidgetItem*)", self.items[row])

    def choose(self, row: int) -> None:
        self.currentRow = row
        self.emit("currentRowChanged(int)", row)


class Table(Widget):
    """A QTableWidget."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.cells: dict[tuple[int, int], Item] = {}
        self.current = -1
        self.sorting = False

    def setSortingEnabled(self, enabled: bool) -> None:
        self.sorting = enabled

    def horizontalHeader(self) -> Table:
        return self

    def setSortIndicator(self, column: int, order: int) -> None:
        self.sorted_by, self.order = column, order

    def setRowCount(self, rows: int) -> None:
        self.rows, self.cells = rows, {}

    def setColumnCount(self, columns: int) -> None:
        self.columns = columns

    def setHorizontalHeaderLabels(self, labels: list[str]) -> None:
        self.headings = labels

    def setItem(self, row: int, column: int, item: Item) -> None:
        assert not self.sorting
        self.cells[row, column] = item

    def item(self, row: int, column: int) -> Item | None:
        return self.cells.get((row, column))

    def resizeColumnsToContents(self) -> None:
        pass

    @property
    def rowCount(self) -> int:
        return self.rows

    def setCellWidget(self, row: int, column: int, widget: Widget) -> None:
        self.cells[row, column] = widget

    def currentRow(self) -> int:
        return self.current

    def setCurrentCell(self, row: int, column: int) -> None:
        assert 0 <= row < self.rows
        before, self.current = self.current, row
        if before != row:
            self.emit("currentCellChanged(int,int,int,int)", row, column, before, column)


class Shortcut(Widget):
    """A QShortcut; the main window keeps it."""

    made: ClassVar[list[Shortcut]] = []

    def __init__(self, keys: str, parent: object) -> None:
        super().__init__(keys)
        self.made.append(self)

    def setEnabled(self, enabled: bool) -> None:
        self.enabled = enabled

    def deleteLater(self) -> None:
        self.made.remove(self)

    def press(self) -> None:
        if self.enabled:
            self.emit("activated()")


class Item:
    """A QTableWidgetItem or QListWidgetItem."""

    def __init__(self, text: str = "") -> None:
        self.values: dict[int, object] = {0: text}
        self.state = UNCHECKED

    def setCheckState(self, state: int) -> None:
        self.state = state

    def checkState(self) -> int:
        return self.state

    def setData(self, role: int, value: object) -> None:
        self.values[role] = value

    def data(self, role: int) -> object:
        return self.values.get(role)

    def setToolTip(self, text: str) -> None:
        pass


class Frame:
    """A QFrame, or what lies in one."""

    StyledPanel = 6

    def __init__(self, content: object = None) -> None:
        pass

    def __getattr__(self, name: str):
        if name in ("setAcceptDrops", "setFrameShape", "setAlignment", "setWordWrap", "addWidget"):
            return lambda _: None
        raise AttributeError(name)


def widgets_of(ui_file: Path) -> types.SimpleNamespace:
    """The widgets that a .ui file names, as `slicer.util.childWidgetVariables` gives them."""
    found = types.SimpleNamespace()
    for element in xml.etree.ElementTree.parse(ui_file).iter("widget"):
        kind = {"QTableWidget": Table, "QListWidget": ListWidget}.get(element.get("class"), Widget)
        widget = kind(element.get("name"))
        for prop in element.findall("property"):
            if prop.get("name") in ("checked", "text", "title"):
                value = prop[0].text
                setattr(widget, prop.get("name"), value == "true" if prop[0].tag == "bool" else value)
        setattr(found, widget.name, widget)
    return found


class Parameters:
    """A parameter node: attributes, and nothing that tells of changes but `changed`."""

    def __init__(self, **values) -> None:
        self.__dict__.update(values)
        self._observers: dict[int, object] = {}

    def connectGui(self, ui) -> int:
        return 1

    def disconnectGui(self, tag: int) -> None:
        assert tag == 1

    def AddObserver(self, event: str, slot) -> int:
        self._observers[len(self._observers)] = slot
        return len(self._observers) - 1

    def RemoveObserver(self, tag: int) -> None:
        del self._observers[tag]

    def changed(self) -> None:
        for slot in list(self._observers.values()):
            slot(None, "ModifiedEvent")


def install(monkeypatch: pytest.MonkeyPatch, scene=None, settings: dict | None = None) -> types.SimpleNamespace:
    """Put stand-ins of what slicer-core lacks under their names; return what a test may look at.

    The panels' modules are imported anew with them, and dropped afterwards.
    """
    import slicer
    import slicer.util

    seen = types.SimpleNamespace(settings=settings if settings is not None else {}, asked=[], windows=[], urls=[])

    qt = types.ModuleType("qt")
    qt.Qt = types.SimpleNamespace(
        DisplayRole=0, UserRole=256, AscendingOrder=0, Checked=CHECKED, Unchecked=UNCHECKED, AlignCenter=132,
        DescendingOrder=1, WA_DeleteOnClose=55, DecorationRole=1,
    )  # fmt: skip
    qt.QComboBox, qt.QShortcut, qt.QKeySequence, qt.QColor = Widget, Shortcut, str, str
    qt.QAbstractItemView = types.SimpleNamespace(SelectRows=1, SingleSelection=1)
    monkeypatch.setattr(Shortcut, "made", [])
    qt.QFrame, qt.QLabel = Frame, Frame
    qt.QTableWidgetItem = qt.QListWidgetItem = Item
    qt.QSettings = lambda: types.SimpleNamespace(setValue=seen.settings.__setitem__)
    qt.QUrl = types.SimpleNamespace(fromLocalFile=lambda path: path)
    qt.QDesktopServices = types.SimpleNamespace(openUrl=seen.urls.append)
    qt.QFileDialog = types.SimpleNamespace(getExistingDirectory=lambda *_: seen.folder)

    class QDialog(Widget):
        def __init__(self, parent):
            super().__init__()
            seen.windows.append(self)

        def setAttribute(self, attribute):
            assert attribute == qt.Qt.WA_DeleteOnClose

        def setWindowTitle(self, title):
            self.title = title

        def resize(self, width, height):
            pass

        def show(self):
            pass

        @property
        def shown_text(self):
            return next(item.name for item in self.items if isinstance(item, QPlainTextEdit))

    class QPlainTextEdit(Widget):
        def setReadOnly(self, only):
            assert only

        def setFont(self, font):
            assert font == "fixed"

    class QDialogButtonBox(Widget):
        Close = 0x00200000

        def setStandardButtons(self, buttons):
            assert buttons == self.Close

        def connect(self, signal, receiver, slot):
            return True

    qt.QFontDatabase = types.SimpleNamespace(FixedFont="fixed", systemFont=lambda font: font)
    qt.QDialog, qt.QPlainTextEdit, qt.QDialogButtonBox = QDialog, QPlainTextEdit, QDialogButtonBox
    qt.QVBoxLayout = lambda parent: parent
    monkeypatch.setitem(sys.modules, "qt", qt)
    monkeypatch.setitem(sys.modules, "ctk", types.ModuleType("ctk"))

    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = (lambda text: text), (lambda context, text: text)
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = lambda kind: kind
    wrapper.Choice, wrapper.WithinRange = list, lambda low, high: (low, high)
    scripted = types.ModuleType("slicer.ScriptedLoadableModule")
    for name in ("", "Logic", "Test", "Widget"):
        kind = type(f"ScriptedLoadableModule{name}", (), {"__init__": lambda self, parent=None: None})
        setattr(scripted, kind.__name__, kind)
    for module in (i18n, wrapper, scripted):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(slicer, module.__name__.partition(".")[2], module, raising=False)

    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer.util, "childWidgetVariables", widgets_of, raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None, raising=False)
    monkeypatch.setattr(slicer.util, "settingsValue", lambda key, default: seen.settings.get(key, default))
    monkeypatch.setattr(
        slicer.util, "confirmOkCancelDisplay", lambda question: seen.asked.append(question) or True, raising=False
    )
    for name in [name for name in sys.modules if name.startswith("LiverMarginPanels.") and "panel" in name[18:]]:
        monkeypatch.delitem(sys.modules, name)
    for name in (
        "tables", "parameter_node", "drop_area", "model_list", "compare_plot", "compare_results", "compare_view",
        "prediction_table", "shortcuts", "surface_colouring", "text_window",
    ):  # fmt: skip
        monkeypatch.delitem(sys.modules, f"LiverMarginPanels.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "LiverMargin", raising=False)
    return seen

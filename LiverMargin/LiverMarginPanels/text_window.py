"""A window with a long text, such as a model's card or what a worker wrote last; the application goes on meanwhile."""

from __future__ import annotations

import qt
import slicer

_SIZE = 760, 520


def show_text(title: str, text: str) -> None:
    """Show a text as it is: what a model or a file says is no HTML, and can be copied.

    Parameters
    ----------
    title : str
    text : str
    """
    window = qt.QDialog(slicer.util.mainWindow())
    window.setAttribute(qt.Qt.WA_DeleteOnClose)
    window.setWindowTitle(title)
    layout = qt.QVBoxLayout(window)
    edit = qt.QPlainTextEdit(text)
    edit.setReadOnly(True)
    edit.setFont(qt.QFontDatabase.systemFont(qt.QFontDatabase.FixedFont))  # some texts are tables
    layout.addWidget(edit)
    buttons = qt.QDialogButtonBox()
    buttons.setStandardButtons(qt.QDialogButtonBox.Close)
    buttons.connect("rejected()", window, "close()")
    layout.addWidget(buttons)
    window.resize(*_SIZE)
    window.show()

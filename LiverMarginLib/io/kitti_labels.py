"""The label table of a KITTI 1.0 export, label_colors.txt."""

from __future__ import annotations

from dataclasses import dataclass

from LiverMarginLib.errors import InputError

LABEL_TABLE = "label_colors.txt"

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class KittiLabel:
    """A line of label_colors.txt: the class number, its name and its colour in ``semantic_rgb``, None if not said."""

    index: int
    name: str
    colour: Colour | None


def parse_label_table(text: str, shown: str = LABEL_TABLE) -> tuple[KittiLabel, ...]:
    """Parse label_colors.txt, "R G B name" or "name" a line; a name may hold spaces.

    Background (named so, or black) becomes class 0 wherever it stands, and is added where it is missing; the others
    are numbered in the order of their lines.

    Raises
    ------
    InputError
        If a line is not of that form, or a name or a colour occurs twice.
    """
    entries: list[tuple[str, Colour | None]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        entry = _parse_label(line)
        if entry is None:
            raise InputError(
                f'Line {number} of {LABEL_TABLE} in {shown} is not "red green blue name"; export the masks again.'
            )
        entries.append(entry)
    names = [name for name, _ in entries]
    colours = [colour for _, colour in entries if colour is not None]
    if len(set(names)) < len(names) or len(set(colours)) < len(colours):
        raise InputError(f"{LABEL_TABLE} in {shown} holds a name or a colour twice; give each label its own.")
    background = [entry for entry in entries if entry[0].casefold() == "background"]
    background += [entry for entry in entries if entry[1] == (0, 0, 0)]
    first = background[0] if background else ("background", (0, 0, 0))
    ordered = [first, *(entry for entry in entries if entry != first)]
    return tuple(KittiLabel(index, name, colour) for index, (name, colour) in enumerate(ordered))


def _parse_label(line: str) -> tuple[str, Colour | None] | None:
    fields = line.split(maxsplit=3)
    if not fields[0].lstrip("-").isdigit():
        return line, None  # an exporter that knew no colours writes the name alone
    try:
        red, green, blue = (int(value) for value in fields[:3])
        name = fields[3].strip()
    except (ValueError, IndexError):
        return None
    return (name, (red, green, blue)) if all(0 <= value <= 255 for value in (red, green, blue)) else None

"""Write surfaces of a segmentation for 3-D printing, checked, with a report."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import InputError, ResourceError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import Job

if TYPE_CHECKING:
    from LiverMarginLib.io.printing import PrintSurface
    from LiverMarginLib.io.surface_files import Space
    from LiverMarginLib.terminology import Segment
    from LiverMarginLib.volume import LabelMap


@dataclass(frozen=True)
class PrintJob(Job):
    """Make printable surfaces; see docs/printing.md.

    Parameters
    ----------
    input : str
        Segmentation in any format that can be read.
    outputs : tuple of str
        Files to write, each .stl, .obj, .ply or .3mf.
    labels : tuple of str
        Label values or segment names; empty takes all.
    triangles : int
        Budget of each segment.
    smoothing : float
        0 to 1, the most that is used.
    largest_piece, fill_cavities : bool
        Keep the largest piece only; fill what is enclosed.
    space : str
        "LPS" or "RAS", the axes of the files.
    allow_faults : bool
        Write surfaces that are not fit for printing too; their faults are in the report and said.
    report : str, optional
        JSON file for the checks; None writes ``<first output without suffix>.print.json``.
    picture : str, optional
        PNG of the surfaces; left out, with the reason said, where nothing can be rendered.
    """

    kind: ClassVar[str] = "print"

    input: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    triangles: int = 200_000
    smoothing: float = 0.6
    largest_piece: bool = False
    fill_cavities: bool = False
    space: str = "LPS"
    allow_faults: bool = False
    report: str | None = None
    picture: str | None = None

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, build, check, write; see `LiverMarginLib.jobs.run`."""
        from LiverMarginLib.io.printing import PrintOptions, print_surface, refuse_faults
        from LiverMarginLib.io.readers import read_labels
        from LiverMarginLib.io.surface_files import Space

        outputs = self._checked_outputs()
        try:
            space = Space(self.space.upper())
        except ValueError:
            raise InputError(f"The space {self.space!r} is unknown; use LPS or RAS.") from None
        options = PrintOptions(self.triangles, self.smoothing, self.largest_piece, self.fill_cavities)
        label_map = read_labels(self.input, on_event=on_event)
        segments, several = self._segments(label_map)
        surfaces = []
        for number, segment in enumerate(segments):
            cancel.check()
            on_event(Progress(number, len(segments), "surface", segment.name))
            surfaces.append(print_surface(label_map, segment, options, cancel))
        on_event(Progress(len(segments), len(segments), "surface"))
        if not self.allow_faults:
            refuse_faults(surfaces)
        for found in surfaces:
            if found.faults:
                on_event(Notice(f"{found.segment.name} is not fit for printing: it has {', '.join(found.faults)}."))
            for note in found.notes:
                on_event(Notice(note))
        report = {
            "input": Path(self.input).name,
            "units": "mm",
            "space": space.value,
            "segments": [found.to_dict() for found in surfaces],
        }
        cancel.check()
        written = _write(surfaces, outputs, space, several, Path(self._report_path(outputs)), report)
        picture = self._write_picture(surfaces, on_event)
        return {"outputs": written, "report": self._report_path(outputs), "picture": picture, **report}

    def _checked_outputs(self) -> list[Path]:
        from LiverMarginLib.io.surface_files import SUFFIXES
        from LiverMarginLib.io.writers import check_output

        for output in self.outputs:
            check_output(output)
            if Path(output).suffix.lower() not in SUFFIXES:
                raise InputError(f"{Path(output).name} is no surface file; print to one of {', '.join(SUFFIXES)}.")
        if not self.outputs:
            raise InputError("No file to write is named; name one that ends in .stl, .obj, .ply or .3mf.")
        if self.picture is not None and Path(self.picture).suffix.lower() != ".png":
            raise InputError(f"{Path(self.picture).name} is no name of a picture; let it end in .png.")
        return [Path(output) for output in self.outputs]

    def _report_path(self, outputs: list[Path]) -> str:
        return self.report or str(outputs[0].with_suffix(".print.json"))

    def _segments(self, label_map: LabelMap) -> tuple[list[Segment], bool]:
        """The segments to print, and whether the files' names must tell them apart."""
        from LiverMarginLib.io.readers import resolve_label
        from LiverMarginLib.io.segment_table import segment_table

        table = {row.segment.label: row for row in segment_table(label_map)}
        if self.labels:
            wanted = [resolve_label(label_map, int(name) if name.isdigit() else name) for name in self.labels]
            chosen = [table[label].segment for label in dict.fromkeys(wanted)]
        else:
            chosen = [row.segment for row in table.values() if row.box is not None]
        if not chosen:
            raise InputError("No voxel is labelled, so there is no surface; segment first or choose another file.")
        return chosen, len(chosen) > 1

    def _write_picture(self, surfaces: list[PrintSurface], on_event: OnEvent) -> str | None:
        from LiverMarginLib.io.surface_picture import write_surface_picture

        if self.picture is None:
            return None
        try:
            write_surface_picture([(found.segment, found.surface) for found in surfaces], Path(self.picture))
        except ResourceError as error:
            on_event(Notice(f"The picture is left out. {error.message}"))
            return None
        return self.picture


def _write(
    surfaces: list[PrintSurface], outputs: list[Path], space: Space, several: bool, report_path: Path, report: Any
) -> list[str]:
    """Write all files or none."""
    from LiverMarginLib.io.atomic import atomic_path
    from LiverMarginLib.io.surface_files import encode_scene, encode_surface, surface_paths
    from LiverMarginLib.jsonable import dumps

    written = []
    with ExitStack() as until_all_are_complete:

        def write(final: Path, data: bytes) -> None:
            until_all_are_complete.enter_context(atomic_path(final)).write_bytes(data)
            written.append(str(final))

        for output in outputs:
            finals = surface_paths(output, [found.segment for found in surfaces], several=several)
            if output.suffix.lower() == ".3mf":
                scene = [(found.segment, found.surface) for found in surfaces]
                write(output, encode_scene(scene, space=space))
                continue
            for final, found in zip(finals, surfaces, strict=True):
                name = found.segment.name
                write(final, encode_surface(found.surface, output.suffix, space=space, name=name))
        report["files"] = [Path(path).name for path in written]
        until_all_are_complete.enter_context(atomic_path(report_path)).write_text(dumps(report, indent=2) + "\n")
    return written

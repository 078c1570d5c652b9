"""Write an existing segmentation in other formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from LiverMarginLib.errors import GeometryError
from LiverMarginLib.events import CancelToken, Notice, OnEvent, Progress
from LiverMarginLib.jobs.base import Job, modality_named

if TYPE_CHECKING:
    from LiverMarginLib.volume import LabelMap

KITTI = ".zip"
"""Ending of a file that receives the masks, and the image's slices, as KITTI 1.0."""


@dataclass(frozen=True)
class ExportJob(Job):
    """Convert a segmentation.

    Parameters
    ----------
    input : str
        Segmentation in any format that can be read.
    outputs : tuple of str
        Files to write; the suffix decides the format: those of `LiverMarginLib.io.writers.formats`, and `KITTI`.
    labels : tuple of str
        Label values or segment names to keep; empty keeps all.
    source : str, optional
        The DICOM series that a DICOM SEG must reference; of several, the one on whose planes the labels lie.
    image : str, optional
        CT or MR whose slices KITTI holds beside the masks.
    modality : str, optional
        "CT" or "MR": what `image` is, where its file does not say.
    """

    kind: ClassVar[str] = "export"

    input: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    source: str | None = None
    image: str | None = None
    modality: str | None = None

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, choose, write; see `LiverMarginLib.jobs.run`."""
        import numpy as np

        from LiverMarginLib.io.readers import read_labels, resolve_label
        from LiverMarginLib.io.writers import check_output, check_place, write_labelmap

        source = Path(self.source) if self.source else None
        for path in map(Path, self.outputs):
            if _is_kitti(path):
                check_place(path)
            else:
                check_output(path, source=source)
        label_map = read_labels(self.input, on_event=on_event)
        if self.labels:
            kept = [resolve_label(label_map, int(name) if name.isdigit() else name) for name in self.labels]
            array = np.where(np.isin(label_map.array, kept), label_map.array, 0).astype(label_map.array.dtype)
            segments = tuple(segment for segment in label_map.segments if segment.label in kept)
            label_map = replace(label_map, array=array, segments=segments)
        written: list[str] = []
        for number, output in enumerate(self.outputs):
            cancel.check()
            on_event(Progress(number, len(self.outputs), "write", Path(output).name))
            if _is_kitti(Path(output)):
                written.append(self._write_kitti(label_map, Path(output), on_event))
            else:
                written += [str(path) for path in write_labelmap(label_map, Path(output), source=source)]
        on_event(Progress(len(self.outputs), len(self.outputs), "write"))
        return {"outputs": written}

    def _write_kitti(self, labels: LabelMap, path: Path, on_event: OnEvent) -> str:
        from LiverMarginLib.io.kitti_writer import write_kitti
        from LiverMarginLib.io.readers import read_volume

        names = {segment.label: segment.name.casefold() for segment in labels.segments}
        image = None
        if self.image is not None:
            image = read_volume(self.image, modality=modality_named(self.modality), on_event=on_event)
        try:
            write_kitti(image, labels, path, label_name=names or "liver", overwrite=True)
        except GeometryError:
            if image is None:
                raise
            on_event(Notice(f"The image does not lie on the grid of the labels; {path.name} holds the masks alone."))
            write_kitti(None, labels, path, label_name=names or "liver", overwrite=True)
        return str(path)


def _is_kitti(path: Path) -> bool:
    return path.suffix.casefold() == KITTI

"""Write an existing segmentation in other formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from LiverMarginLib.events import CancelToken, OnEvent, Progress
from LiverMarginLib.jobs.base import Job


@dataclass(frozen=True)
class ExportJob(Job):
    """Convert a segmentation.

    Parameters
    ----------
    input : str
        Segmentation in any format that can be read.
    outputs : tuple of str
        Files to write; the suffix decides the format.
    labels : tuple of str
        Label values or segment names to keep; empty keeps all.
    source : str, optional
        The DICOM series that a DICOM SEG must reference; of several, the one on whose planes the labels lie.
    """

    kind: ClassVar[str] = "export"

    input: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    source: str | None = None

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Read, choose, write; see `LiverMarginLib.jobs.run`."""
        import numpy as np

        from LiverMarginLib.io.readers import read_labels, resolve_label
        from LiverMarginLib.io.writers import check_output, write_labelmap

        source = Path(self.source) if self.source else None
        for output in self.outputs:
            check_output(output, source=source)
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
            written += [str(path) for path in write_labelmap(label_map, Path(output), source=source)]
        on_event(Progress(len(self.outputs), len(self.outputs), "write"))
        return {"outputs": written}

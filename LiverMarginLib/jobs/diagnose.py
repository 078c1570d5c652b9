"""Look at the Python that runs the job: its packages, and the devices that compute."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from LiverMarginLib.events import CancelToken, OnEvent
from LiverMarginLib.jobs.base import Job


@dataclass(frozen=True)
class DiagnoseJob(Job):
    """Find out what works, in a process whose crash harms nobody: a broken package may end the interpreter."""

    kind: ClassVar[str] = "diagnose"

    def execute(self, on_event: OnEvent, cancel: CancelToken) -> dict[str, Any]:
        """Return the fields of `LiverMarginLib.diagnostics.Diagnosis`."""
        from LiverMarginLib.diagnostics import diagnose

        return dataclasses.asdict(diagnose())

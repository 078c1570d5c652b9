"""What every door asks for: a typed `Job`, run by `run`.

The command line, the Slicer module's worker, the batch script and the tests build the same frozen dataclasses and
call the same function, so that a feature cannot exist behind one door only. A job is plain data: it survives a
round trip through JSON, and names files, never open objects.
"""

from __future__ import annotations

import importlib
import reprlib

from LiverMarginLib.errors import InputError
from LiverMarginLib.jobs.base import Job, run

__all__ = ["JOB_TYPES", "Job", "job_from_dict", "run"]

# Named, not imported: a panel that only compares must not load what segmenting needs.
JOB_TYPES = {
    "segment": "LiverMarginLib.jobs.segment:SegmentJob",
    "compare": "LiverMarginLib.jobs.compare:CompareJob",
    "batch": "LiverMarginLib.jobs.batch:BatchJob",
    "batch-merge": "LiverMarginLib.jobs.batch:MergeBatchJob",
    "batch-read": "LiverMarginLib.batch.stages:ReadJob",
    "batch-segment": "LiverMarginLib.batch.stages:ComputeJob",
    "batch-finish": "LiverMarginLib.batch.stages:FinishJob",
    "export": "LiverMarginLib.jobs.export:ExportJob",
    "print": "LiverMarginLib.jobs.printing:PrintJob",
    "phantom": "LiverMarginLib.jobs.phantom:PhantomJob",
    "denoise": "LiverMarginLib.jobs.denoise:DenoiseJob",
    "train": "LiverMarginLib.jobs.train:TrainJob",
    "reproduce": "LiverMarginLib.jobs.reproduce:ReproduceJob",
    "fewshot": "LiverMarginLib.jobs.fewshot:FewShotJob",
    "pseudo-label": "LiverMarginLib.jobs.pseudo_label:PseudoLabelJob",
    "two-stage": "LiverMarginLib.jobs.two_stage:TwoStageJob",
    "ablation": "LiverMarginLib.jobs.two_stage:AblationJob",
    "tune": "LiverMarginLib.jobs.tune:TuneJob",
    "add-model": "LiverMarginLib.jobs.models:AddModelJob",
    "evaluate": "LiverMarginLib.jobs.evaluate:EvaluateJob",
    "diagnose": "LiverMarginLib.jobs.diagnose:DiagnoseJob",
    "dataset-check": "LiverMarginLib.jobs.dataset:CheckDatasetJob",
    "dataset-split": "LiverMarginLib.jobs.dataset:SplitDatasetJob",
    "dataset-export-kitti": "LiverMarginLib.jobs.dataset:ExportKittiJob",
}


def job_from_dict(values: dict[str, object]) -> Job:
    """Rebuild a job from its `Job.to_dict` form.

    Parameters
    ----------
    values : dict
        ``{"job": kind, ...fields}`` as read from JSON.

    Raises
    ------
    InputError
        If the kind is unknown or a field is missing, unknown or of the wrong type.
    """
    kind = values.get("job") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in JOB_TYPES:
        raise InputError(f"There is no job of kind {reprlib.repr(kind)}; use one of: {', '.join(sorted(JOB_TYPES))}.")
    module, _, name = JOB_TYPES[kind].partition(":")
    job_type: type[Job] = getattr(importlib.import_module(module), name)
    return job_type.from_fields({key: value for key, value in values.items() if key != "job"})

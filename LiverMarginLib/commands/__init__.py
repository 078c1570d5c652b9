"""The sub-commands of `livermargin`, one file each.

Each module has `add_arguments(parser)` and `run(options, terminal) -> exit code`; what `livermargin --help` says of it
is here. They are imported when named on the command line, and heavy packages only when they run, so that
`livermargin --help` answers at once.
"""

from __future__ import annotations

COMMANDS = {
    "info": "what a file or folder holds: images, series, geometry",
    "segment": "find the liver in a CT or MR volume",
    "batch": "segment a cohort: resumes, one bad case stops nothing, one result table",
    "compare": "measure segmentations against a reference, slice by slice",
    "export": "write a segmentation in other formats (seg.nrrd, NIfTI, DICOM SEG, STL, ...)",
    "denoise": "denoise a CT with DnCNN-SR into a new image",
    "train": "train a network on a data set or on phantoms",
    "reproduce": "train the same network several times and say how far the results differ",
    "fewshot": "learn an organ from few subjects by one preset, with a learning curve or k folds",
    "pseudo-label": "let a liver model draw the livers of a data set that has none, behind a quality gate",
    "two-stage": "learn liver cancer in CT and MR: liver models, drawn livers, one network for both",
    "ablation": "the two-stage training in every variant, and in a single stage, as one table",
    "evaluate": "run models on test patients and compare them side by side",
    "phantom": "make a synthetic abdomen, CT or MR, with exact labels",
    "dataset": "check a data set, split it by patient, export it as KITTI 1.0",
    "models": "list, show, check, export, combine, tune and get model bundles",
    "doctor": "what is installed, which device works, what is missing",
}

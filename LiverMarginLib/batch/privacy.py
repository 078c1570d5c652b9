"""Messages without the names of files and folders, which are often those of patients."""

from __future__ import annotations

import re
from pathlib import Path

from LiverMarginLib.plain_text import one_line
from LiverMarginLib.report.provenance import without_paths

_SHORTEST = 2
_DEEPEST = 5
# Words that name no one and that our own sentences use.
_COMMON = {
    "case", "cases", "ct", "mr", "data", "dcm", "dicom", "image", "images", "label", "labels", "liver", "nifti", "nii",
    "nrrd", "mha", "reference", "segmentation", "seg", "series", "study", "tmp", "volume", "volumes", "home", "the",
}  # fmt: skip


class Scrubber:
    """Takes the names of a case's files out of sentences.

    Parameters
    ----------
    image : path
        Where the case's image lies; its own name becomes "image".
    reference : path, optional
        Where its reference lies; its own name becomes "reference".
    """

    def __init__(self, image: Path | str, reference: Path | str | None = None) -> None:
        words: dict[str, str] = {}
        for path, instead in ((reference, "reference"), (image, "image")):
            if path is None:
                continue
            *folders, name = Path(path).parts[-_DEEPEST:]
            for part in folders:
                words |= {part: "[name]", part.partition(".")[0]: "[name]"}
            words |= {name: instead, name.partition(".")[0]: instead}
        self._instead = {w: i for w, i in words.items() if len(w) >= _SHORTEST and w.casefold() not in _COMMON}
        listed = sorted(self._instead, key=lambda word: (-len(word), word))
        self._pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in listed)) if listed else None

    def __call__(self, text: str) -> str:
        """The text with names replaced, anything like a path too, and without control characters."""
        if self._pattern is not None:
            text = self._pattern.sub(lambda match: self._instead[match.group()], text)
        return one_line(without_paths(text))

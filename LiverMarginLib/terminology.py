"""What a label means: name, colour and the SNOMED CT codes that DICOM SEG and 3D Slicer write.

Codes and colours are those of 3D Slicer's "Segmentation category and type - 3D Slicer General Anatomy list". A
tumour is called "Mass" in "Liver": the networks do not know whether a lesion is primary or secondary.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_ANATOMY_CONTEXT = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Code:
    """A coded term: coding scheme designator, code value, code meaning (DICOM PS3.3 8.8)."""

    value: str
    meaning: str
    scheme: str = "SCT"

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class Terminology:
    """Segmented property category and type, and the anatomic region where the type alone does not say it."""

    category: Code
    type: Code
    region: Code | None = None

    def to_slicer(self) -> str:
        """The seven ``~``-separated fields of 3D Slicer's segment tag ``TerminologyEntry``."""
        region = str(self.region) if self.region else "^^"
        return "~".join((_CONTEXT, str(self.category), str(self.type), "^^", _ANATOMY_CONTEXT, region, "^^"))

    @classmethod
    def from_slicer(cls, entry: str) -> Terminology | None:
        """Inverse of `to_slicer`; None where category or type is missing."""
        parts = [*entry.split("~"), *[""] * 7]
        category, type_, region = (_code_from_slicer(parts[n]) for n in (1, 2, 5))
        return cls(category, type_, region) if category and type_ else None


def _code_from_slicer(text: str) -> Code | None:
    scheme, value, meaning = [*text.split("^", 2), "", "", ""][:3]
    return Code(value, meaning, scheme) if value else None


@dataclass(frozen=True)
class Segment:
    """One label of a `LabelMap`.

    Parameters
    ----------
    label : int
        Its value in the array, 1 or more.
    name : str
        What a person reads, such as "Liver".
    colour : tuple of int
        Red, green, blue, 0 to 255.
    terminology : Terminology, optional
        None for a label whose meaning is not known.
    """

    label: int
    name: str
    colour: tuple[int, int, int]
    terminology: Terminology | None = None


LIVER = Segment(
    1,
    "Liver",
    (221, 130, 101),
    Terminology(Code("123037004", "Anatomical Structure"), Code("10200004", "Liver")),
)
LIVER_MASS = Segment(
    2,
    "Mass in Liver",
    (144, 238, 144),
    Terminology(
        Code("49755003", "Morphologically Altered Structure"), Code("4147007", "Mass"), Code("10200004", "Liver")
    ),
)

# Colours of labels without a meaning, in turn.
_COLOURS = ((128, 174, 128), (241, 214, 145), (177, 122, 101), (111, 184, 210), (216, 101, 79), (183, 156, 220))


def segment_of(label: int) -> Segment:
    """The segment that a label value means in this project; values without a meaning of their own are numbered."""
    known = {segment.label: segment for segment in (LIVER, LIVER_MASS)}
    return known.get(label) or Segment(label, f"Label {label}", _COLOURS[label % len(_COLOURS)])

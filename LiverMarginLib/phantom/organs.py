"""The labels of the phantom: one value, name, colour and SNOMED CT code for every organ.

Label 1 is the liver and 2 a mass in it, as everywhere in the project. The vessels inside the liver carry label 3 and
count as liver in `liver_target`, as do the masses: that is how the usual CT ground truths (LiTS, CHAOS, AMOS,
TotalSegmentator) draw the organ. The gallbladder, the vena cava and the portal trunk outside the liver do not count.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from LiverMarginLib.errors import InputError
from LiverMarginLib.terminology import LIVER, LIVER_MASS, Code, Segment, Terminology
from LiverMarginLib.volume import LabelMap

_ANATOMY = Code("123037004", "Anatomical Structure")
_SUBSTANCE = Code("91720002", "Body Substance")
_OBJECT = Code("260787004", "Physical object")
_ALTERED = Code("49755003", "Morphologically Altered Structure")


class Organ(IntEnum):
    """Label value of each organ in a phantom's label map; 0 is the air around the patient."""

    LIVER = 1
    LIVER_MASS = 2
    LIVER_VESSEL = 3
    SPLEEN = 4
    RIGHT_KIDNEY = 5
    LEFT_KIDNEY = 6
    GALLBLADDER = 7
    STOMACH = 8
    OESOPHAGUS = 9
    AORTA = 10
    VENA_CAVA = 11
    PORTAL_VEIN = 12
    PANCREAS = 13
    RIGHT_ADRENAL = 14
    LEFT_ADRENAL = 15
    DUODENUM = 16
    SMALL_BOWEL = 17
    COLON = 18
    RIGHT_LUNG = 19
    LEFT_LUNG = 20
    HEART = 21
    VERTEBRA = 22
    DISC = 23
    SPINAL_CORD = 24
    RIB = 25
    CARTILAGE = 26
    BONE = 27
    MUSCLE = 28
    SUBCUTANEOUS_FAT = 29
    VISCERAL_FAT = 30
    SKIN = 31
    VESSEL = 32
    ASCITES = 33
    PLEURAL_EFFUSION = 34
    BLADDER = 35
    BREAST = 36
    TABLE = 37
    AIRWAY = 38


def _segment(
    organ: Organ, name: str, colour: tuple[int, int, int], code: tuple[str, str] | None, category: Code = _ANATOMY
) -> Segment:
    return Segment(int(organ), name, colour, Terminology(category, Code(*code)) if code else None)


ORGANS: tuple[Segment, ...] = (
    LIVER,
    LIVER_MASS,
    _segment(Organ.LIVER_VESSEL, "Vessels in liver", (0, 151, 206), ("59820001", "Blood Vessel")),
    _segment(Organ.SPLEEN, "Spleen", (157, 108, 162), ("78961009", "Spleen")),
    _segment(Organ.RIGHT_KIDNEY, "Right kidney", (185, 102, 83), ("64033007", "Kidney")),
    _segment(Organ.LEFT_KIDNEY, "Left kidney", (201, 121, 99), ("64033007", "Kidney")),
    _segment(Organ.GALLBLADDER, "Gallbladder", (139, 150, 98), ("28231008", "Gallbladder")),
    _segment(Organ.STOMACH, "Stomach", (216, 132, 105), ("69695003", "Stomach")),
    _segment(Organ.OESOPHAGUS, "Oesophagus", (211, 171, 143), ("32849002", "Esophagus")),
    _segment(Organ.AORTA, "Aorta", (224, 97, 76), ("15825003", "Aorta")),
    _segment(Organ.VENA_CAVA, "Inferior vena cava", (0, 122, 190), ("64131007", "Inferior vena cava")),
    _segment(Organ.PORTAL_VEIN, "Portal and splenic vein", (0, 151, 190), ("32764006", "Portal vein")),
    _segment(Organ.PANCREAS, "Pancreas", (249, 180, 111), ("15776009", "Pancreas")),
    _segment(Organ.RIGHT_ADRENAL, "Right adrenal gland", (249, 186, 150), ("23451007", "Adrenal gland")),
    _segment(Organ.LEFT_ADRENAL, "Left adrenal gland", (239, 176, 140), ("23451007", "Adrenal gland")),
    _segment(Organ.DUODENUM, "Duodenum", (255, 253, 229), ("38848004", "Duodenum")),
    _segment(Organ.SMALL_BOWEL, "Small bowel", (205, 167, 142), ("30315005", "Small intestine")),
    _segment(Organ.COLON, "Colon", (204, 168, 143), ("71854001", "Colon")),
    _segment(Organ.RIGHT_LUNG, "Right lung", (172, 138, 115), ("39607008", "Lung")),
    _segment(Organ.LEFT_LUNG, "Left lung", (202, 164, 140), ("39607008", "Lung")),
    _segment(Organ.HEART, "Heart", (206, 110, 84), ("80891009", "Heart")),
    _segment(Organ.VERTEBRA, "Vertebrae", (226, 202, 134), ("51282000", "Vertebra")),
    _segment(Organ.DISC, "Intervertebral discs", (225, 188, 162), None),
    _segment(Organ.SPINAL_CORD, "Spinal cord", (244, 214, 49), ("2748008", "Spinal cord")),
    _segment(Organ.RIB, "Ribs", (253, 232, 158), ("113197003", "Rib")),
    _segment(Organ.CARTILAGE, "Costal cartilage", (111, 184, 210), ("50016007", "Costal Cartilage")),
    _segment(Organ.BONE, "Other bones", (241, 214, 145), ("272673000", "Bone")),
    _segment(Organ.MUSCLE, "Muscle", (192, 104, 88), ("71616004", "Muscle")),
    _segment(Organ.SUBCUTANEOUS_FAT, "Subcutaneous fat", (230, 220, 70), ("55603005", "Fat")),
    _segment(Organ.VISCERAL_FAT, "Visceral fat", (240, 200, 60), ("55603005", "Fat")),
    _segment(Organ.SKIN, "Skin", (177, 122, 101), ("39937001", "Skin")),
    _segment(Organ.VESSEL, "Other vessels", (216, 101, 79), ("59820001", "Blood Vessel")),
    _segment(Organ.ASCITES, "Ascites", (170, 250, 250), ("32457005", "Body fluid"), _SUBSTANCE),
    _segment(Organ.PLEURAL_EFFUSION, "Pleural effusion", (140, 210, 240), ("60046008", "Pleural effusion"), _ALTERED),
    _segment(Organ.BLADDER, "Urinary bladder", (222, 154, 132), None),
    _segment(Organ.BREAST, "Breast", (230, 170, 150), ("76752008", "Breast")),
    _segment(Organ.TABLE, "Table", (130, 130, 130), ("260787004", "Physical object"), _OBJECT),
    _segment(Organ.AIRWAY, "Trachea and bronchi", (182, 228, 255), None),
)


def liver_target(labels: LabelMap, tumour: bool = False) -> LabelMap:
    """Reduce a phantom's labels to what a liver network learns.

    Parameters
    ----------
    labels : LabelMap
        Labels as in `Organ`.
    tumour : bool
        Keep masses as label 2 instead of counting them as liver.

    Returns
    -------
    LabelMap
        uint8, 1 for liver with the vessels and masses inside it, 2 for masses if asked for.

    Raises
    ------
    InputError
        If the label map does not carry a phantom's labels.
    """
    if labels.segments != ORGANS:
        raise InputError("These labels are not those of a phantom; pass Phantom.labels.")
    table = np.zeros(256, dtype=np.uint8)
    table[[Organ.LIVER, Organ.LIVER_VESSEL]] = 1
    table[Organ.LIVER_MASS] = 2 if tumour else 1
    segments = (LIVER, LIVER_MASS) if tumour else (LIVER,)
    return LabelMap(table[labels.array], labels.geometry, segments, labels.provenance)

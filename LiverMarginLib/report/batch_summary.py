"""The summary of a batch as one HTML file: what needs a look first, a picture of every case, the table."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from LiverMarginLib.batch.records import CaseRecord, Status
from LiverMarginLib.batch.stages import PREVIEW
from LiverMarginLib.batch.tables import METRICS
from LiverMarginLib.io.atomic import atomic_path
from LiverMarginLib.metrics.definitions import DEFINITIONS
from LiverMarginLib.report.markup import Html, tag, together
from LiverMarginLib.report.numbers import NOTHING, count, listing, number
from LiverMarginLib.report.page import html_document
from LiverMarginLib.report.preview import HEIGHT
from LiverMarginLib.report.tables import cell, table

_UNSURE = 0.9
_MOST_PREVIEW_BYTES = 1 << 20
_CSS = f"""
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 14px; }}
.card {{ margin: 0; border: 1px solid var(--rule); border-top: 4px solid #25a244; border-radius: 4px; }}
.card.failed, .card.not-done {{ border-top-color: #c62828; }} .card.look {{ border-top-color: #e69f00; }}
.card img, .card .nothing {{ display: block; width: 100%; height: {HEIGHT * 3 // 4}px; object-fit: contain;
  background: #000; }}
.card .nothing {{ background: #eceff2; }}
.card figcaption {{ padding: 6px 10px 10px; line-height: 1.4; overflow-wrap: anywhere; }}
.card figcaption b {{ color: var(--ink); }}
td.message {{ min-width: 34ch; overflow-wrap: anywhere; }}
@media print {{ .card {{ break-inside: avoid; }} .cards {{ grid-template-columns: repeat(3, 1fr); }} }}
"""
_SHOWN = ("dice", "boundary_iou", "hd95_mm", "assd_mm")


def write_summary(records: Sequence[CaseRecord], facts: Mapping[str, Any], cases: Path, path: Path) -> None:
    """Write the summary.

    Parameters
    ----------
    records : sequence of CaseRecord
    facts : mapping
        Of run.json.
    cases : Path
        Folder that holds the cases' folders, for their pictures.
    path : Path
        An HTML file, which appears complete or not at all.
    """
    title = "Liver segmentation of a cohort"
    parts = [
        tag("header", tag("h1", title), tag("div", *_sentences(records, facts), class_="summary")),
        tag(
            "main",
            tag("section", tag("h2", "Cases"), _note(records), _cards(records, cases)),
            tag("section", tag("h2", "Table"), _table(records)),
            tag("section", tag("h2", "Provenance"), _provenance(facts)),
        ),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(html_document(title, parts, _CSS), encoding="utf-8")


def _sentences(records: Sequence[CaseRecord], facts: Mapping[str, Any]) -> list[Html]:
    by_status = {status: [r for r in records if r.status is status] for status in Status}
    parts = [f"{len(found)} {status}" for status, found in by_status.items() if found]
    lines = [f"{count(len(records), 'case')}: {listing(parts)}."]
    look = [r.case for r in records if _needs_a_look(r)]
    if look:
        lines.append(f"Look at these first: {listing(look[:12])}{' and others' if len(look) > 12 else ''}.")
    for key in ("dice", "boundary_iou", "hd95_mm"):
        values = [v for r in records if (v := _metric(r, key)) is not None and math.isfinite(v)]
        if values:
            middle = number(statistics.median(values), DEFINITIONS[key])
            unit = f" {DEFINITIONS[key].unit}" if DEFINITIONS[key].unit else ""
            lines.append(f"Median {DEFINITIONS[key].name} of {count(len(values), 'case')}: {middle}{unit}.")
    if left := sum((facts.get("left_out") or {}).values()):
        lines.append(f"{count(left, 'image')} left out by the rules.")
    return [tag("p", line) for line in lines]


def _needs_a_look(record: CaseRecord) -> bool:
    unsure = record.confidence is not None and record.confidence < _UNSURE
    return record.status is not Status.DONE or bool(record.error) or unsure


def _note(records: Sequence[CaseRecord]) -> Html:
    measured = any(record.metrics for record in records)
    return tag(
        "p",
        f"The axial slice with the most liver and the coronal one through its middle; red: the model"
        f"{', blue: the reference' if measured else ''}. The patient's right is on the left. Confidence is the mean "
        f"probability of the voxels found; below {_UNSURE:g} a case is marked.",
        class_="note",
    )


def _cards(records: Sequence[CaseRecord], cases: Path) -> Html:
    ordered = sorted(records, key=lambda record: (not _needs_a_look(record), record.case))
    return tag("div", *(_card(record, cases) for record in ordered), class_="cards")


def _card(record: CaseRecord, cases: Path) -> Html:
    kind = "failed" if not record.status.has_result else "look" if _needs_a_look(record) else "fine"
    picture = _picture(record, cases / record.case / PREVIEW)
    facts = []
    for name, volume in record.volumes_ml.items():
        facts.append(f"{name} {volume:.0f} ml" if volume is not None else f"{name}: volume unknown")
    if record.confidence is not None:
        facts.append(f"confidence {record.confidence:.2f}")
    if record.least_confidence is not None and record.least_confidence < _UNSURE:
        facts.append(f"lowest in slice {record.least_sure_slice}: {record.least_confidence:.2f}")
    if (dice := _metric(record, "dice")) is not None:
        facts.append(f"Dice {number(dice, DEFINITIONS['dice'])}")
    state = None if record.status is Status.DONE else tag("span", record.status, class_="reason worst")
    message = tag("small", record.message) if record.message and _needs_a_look(record) else None
    lines = together((tag("b", record.case), " ", state, tag("small", ", ".join(facts)) if facts else None, message))
    return tag("figure", picture, tag("figcaption", lines), class_=f"card {kind}")


def _picture(record: CaseRecord, path: Path) -> Html:
    nothing = tag("div", class_="nothing")
    if not record.status.has_result or PREVIEW not in record.files:
        return nothing
    try:
        if path.stat().st_size > _MOST_PREVIEW_BYTES:
            return nothing
        content = path.read_bytes()
    except OSError:
        return nothing
    data = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
    return tag("img", src=data, alt=f"axial and coronal slice of {record.case}")


def _metric(record: CaseRecord, key: str) -> float | None:
    value = record.metrics.get(key)
    return None if value is None else float(value)


def _table(records: Sequence[CaseRecord]) -> Html:
    keys = [key for key in METRICS if key in _SHOWN and any(record.metrics for record in records)]
    rows = []
    for record in records:
        volume = next(iter(record.volumes_ml.values()), None)
        seconds = sum(record.seconds.values())
        measured = [_metric(record, key) for key in keys]
        rows.append(
            tag(
                "tr",
                tag("th", record.case, scope="row"),
                tag("td", record.status, class_="text"),
                cell(NOTHING if volume is None else f"{volume:.1f}", volume),
                cell(NOTHING if record.confidence is None else f"{record.confidence:.3f}", record.confidence),
                *(
                    cell(NOTHING if value is None else number(value, DEFINITIONS[key]), value)
                    for key, value in zip(keys, measured, strict=True)
                ),
                cell(f"{seconds:.1f}" if record.seconds else NOTHING, seconds),
                tag("td", record.message, class_="text message"),
            )
        )
    names = []
    for key in keys:
        unit = DEFINITIONS[key].unit
        names.append(f"{DEFINITIONS[key].name} ({unit})" if unit else DEFINITIONS[key].name)
    head = ("Case", "Status", "Volume (ml)", "Confidence", *names, "Time (s)", "Message")
    return table(head, [rows], "The same numbers as cases.csv.", texts=(0, 1, len(head) - 1))


def _provenance(facts: Mapping[str, Any]) -> Html:
    lines: dict[str, str] = {}
    for model in facts.get("models", ()):
        digests = ", ".join(f"{name} {digest[:12]}" for name, digest in model["sha256"].items())
        lines[f"model {model['name']} {model['version']}"] = digests
    options = {key: value for key, value in facts.get("options", {}).items() if value not in (None, False, "")}
    options.pop("model", None)
    lines["options"] = ", ".join(f"{key} {value}" for key, value in options.items() if not isinstance(value, list))
    lines["formats"] = ", ".join(facts.get("options", {}).get("formats", ()))
    lines["made with"] = ", ".join(f"{name} {version}" for name, version in facts.get("software", {}).items())
    lines["left out"] = "; ".join(f"{n} x {reason}" for reason, n in (facts.get("left_out") or {}).items())
    parts = [part for key, value in lines.items() if value for part in (tag("dt", key), tag("dd", value))]
    return tag("dl", *parts)

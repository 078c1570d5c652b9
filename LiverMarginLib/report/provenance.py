"""How the predictions came to be, as far as they say so: known keys only, and nothing that could be a path."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any

import LiverMarginLib
from LiverMarginLib.comparison import Study

# A provenance comes out of a file that anybody may have written: what is not listed here is not printed.
_OPTIONS = {
    "threshold": "threshold",
    "window": "intensity window",
    "largest_component": "largest component only",
    "fill_holes": "fill holes",
    "min_volume_ml": "least volume (ml)",
    "allow_mismatch": "mismatch of training and image allowed",
    "slice_range": "slices",
}
_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:[\\/]|\\\\|~?/|\.{1,2}/)\S+|\S+\\\S+|\S+/\S+/\S*")
_DIGEST = re.compile(r"[0-9a-f]{12,}", re.IGNORECASE)
_MOST_CHARACTERS = 300
_MOST_NOTICES = 12


def model_provenance(study: Study, model: str) -> dict[str, str]:
    """What is known of a model, for all patients together.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    dict of str to str
        By what it is; different values of several patients are said to vary. Empty if the predictions carry nothing.
    """
    sources = [case.predictions[model].provenance for case in study.cases if model in case.predictions]
    found: dict[str, list[str]] = {}
    for source in sources:
        for key, value in _known(source).items():
            found.setdefault(key, []).append(value)
    return {key: _together(values) for key, values in found.items()}


def notices(study: Study, model: str) -> list[str]:
    """What was said while a model's predictions were made, read and compared; each sentence once, counted."""
    counted: dict[str, int] = {}
    for case in study.cases:
        if model not in case.predictions:
            continue
        prediction = case.predictions[model]
        said = [*prediction.notes]
        for key in ("notices", "notes"):
            listed = prediction.provenance.get(key)
            said += [str(text) for text in listed] if isinstance(listed, list | tuple) else []
        for sentence in dict.fromkeys(without_paths(text) for text in said):
            counted[sentence] = counted.get(sentence, 0) + 1
    lines = [f"{text} ({n} patients)" if n > 1 else text for text, n in counted.items()]
    more = len(lines) - _MOST_NOTICES
    return [*lines[:_MOST_NOTICES], f"... and {more} more, in summary.json."] if more > 0 else lines


def software() -> dict[str, str]:
    """Versions of what made the report."""
    packages = ("numpy", "scipy", "scikit-image", "SimpleITK", "matplotlib")
    versions = {"LiverMargin": LiverMarginLib.__version__, "Python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in packages}


def without_paths(text: str) -> str:
    """A text of bounded length in which anything like a path is replaced: folders are named after patients."""
    return _PATH.sub("[path]", str(text))[:_MOST_CHARACTERS]


def _known(source: Mapping[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    model = source.get("model")
    if isinstance(model, Mapping):
        named = " ".join(str(model[key]) for key in ("name", "version") if model.get(key))
        values["model"] = named
        values["architecture"] = str(model.get("architecture", ""))
        values["weights (sha256)"] = _digests(model.get("sha256"))
    elif isinstance(model, str):
        values["model"] = model
    versions = source.get("software")
    if isinstance(versions, Mapping):
        values["made with"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    for key in ("runtime", "device", "precision"):
        if isinstance(source.get(key), str):
            values[key] = source[key]
    options = source.get("options")
    if isinstance(options, Mapping):
        values |= {title: _plain(options[key]) for key, title in _OPTIONS.items() if key in options}
    if isinstance(source.get("format"), str):
        values["read from"] = f"a {source['format']} file"
    return {key: without_paths(value) for key, value in values.items() if value}


def _digests(weights: Any) -> str:
    """The first twelve digits of each file's sha256."""
    listed: Iterable[Any] = weights.items() if isinstance(weights, Mapping) else [("", weights)]
    short = [(str(name), str(digest)[:12]) for name, digest in listed if _DIGEST.fullmatch(str(digest))]
    return ", ".join(f"{name} {digest}".strip() for name, digest in short)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " to ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _together(values: list[str]) -> str:
    different = list(dict.fromkeys(values))
    return (
        different[0]
        if len(different) == 1
        else f"varies ({different[0]}, {different[1]}{', ...' * (len(different) > 2)})"
    )

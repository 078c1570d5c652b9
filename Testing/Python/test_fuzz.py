"""Damaged and invented input: only `LiverMarginError` comes out, soon, within 2 GB, and without a crash.

What is damaged how is in `fuzzing`; a defect is shown again by its number:
``PYTHONPATH=.:Testing/Python python -m fuzzing.campaign --first NUMBER --inputs 1 TARGET``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnx")
if sys.platform == "win32":
    pytest.skip("limits of memory and time are those of POSIX", allow_module_level=True)

from fuzzing.campaign import fuzz, report
from fuzzing.targets import TARGETS, Target, check

from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.split import load_split
from LiverMarginLib.errors import InputError, LiverMarginError
from LiverMarginLib.jobs import JOB_TYPES, job_from_dict
from LiverMarginLib.models.manifest import Manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)
FREELY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.timeout(600)
def test_three_hundred_damaged_inputs_give_results_or_our_errors():
    findings = fuzz(TARGETS, 11)
    assert sum(finding.inputs for finding in findings.values()) >= 300
    assert not any(finding.defects for finding in findings.values()), report(findings)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_damaged_inputs_give_results_or_our_errors(name):
    findings = fuzz([name], -(-10_000 // len(TARGETS)))
    assert not findings[name].defects, report(findings)


@pytest.mark.parametrize("name", TARGETS)
def test_most_inputs_of_a_target_differ_from_the_sound_files(name):
    if name in ("model-json", "safetensors", "onnx"):
        pytest.skip("its sound files take seconds to make")
    target = TARGETS[name]
    assert sum(target.input(number) != target.sound for number in range(20)) >= 14
    assert target.input(3) == target.input(3)


def test_the_fuzzer_notices_foreign_errors_and_greed(tmp_path):
    def greedy(folder):
        try:
            raise MemoryError
        except MemoryError as error:
            raise InputError("The file is damaged.") from error

    def foreign(folder):
        raise KeyError("x")

    def fine(folder):
        raise InputError("The file is damaged.")

    target = Target(lambda folder: None, lambda files, rng: files, (greedy, foreign, fine))
    first, second = check(target, tmp_path)
    assert "memory over the limit" in first
    assert "KeyError" in second


def only_our_errors(read, *arguments) -> None:
    try:
        read(*arguments)
    except LiverMarginError as error:
        assert error.message.isprintable()


@given(JSON)
@FREELY
def test_any_json_as_a_model_a_split_or_a_data_set_ends_in_our_error(tmp_path, value):
    text = json.dumps(value)
    for name in ("split.json", "dataset.json"):
        (tmp_path / name).write_text(text)
    for read, argument in ((Manifest.from_json, text), (load_split, tmp_path / "split.json"), (open_dataset, tmp_path)):
        with pytest.raises(LiverMarginError):
            read(argument)


@given(st.data(), st.sampled_from(sorted(JOB_TYPES)))
@FREELY
def test_any_fields_make_a_job_that_survives_json_or_our_error(data, kind):
    module, _, name = JOB_TYPES[kind].partition(":")
    names = [field.name for field in dataclasses.fields(getattr(importlib.import_module(module), name))]
    fields = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=5), JSON, max_size=len(names)))
    only_our_errors(lambda: json.dumps(job_from_dict({**fields, "job": kind}).to_dict()))

"""What is fuzzed: for each kind of input the tiny files that are damaged, how, and who reads them."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import SimpleITK as sitk
from dataset_builders import ct_like, put, put_case, put_frame, put_volume, two_pieces
from dicom_makers import ct_slice, enhanced, save, stored_ct, write_series
from example_labels import example
from pydicom.uid import RLELossless

from fuzzing import mutations as m
from LiverMarginLib import worker
from LiverMarginLib.datasets.check import check_dataset
from LiverMarginLib.datasets.layouts import open_dataset
from LiverMarginLib.datasets.split import load_split
from LiverMarginLib.errors import LiverMarginError
from LiverMarginLib.io.kitti import read_kitti
from LiverMarginLib.io.readers import list_images, read_labels, read_volume
from LiverMarginLib.io.writers import write_labelmap
from LiverMarginLib.jobs import job_from_dict
from LiverMarginLib.jobs.segment import SegmentJob
from LiverMarginLib.models.bundle import Bundle, write_bundle

Files = dict[str, bytes]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Parameters
    ----------
    make : callable
        Writes sound files into a folder; called once.
    spoil : callable
        ``spoil(files, rng)`` returns damaged files, by name.
    read : tuple of callable
        Each is given the folder of damaged files, and may raise nothing but `LiverMarginError`.
    """

    make: Callable[[Path], None]
    spoil: Callable[[Files, Random], Files]
    read: tuple[Callable[[Path], Any], ...]

    @functools.cached_property
    def sound(self) -> Files:
        """The sound files."""
        with tempfile.TemporaryDirectory() as folder:
            self.make(Path(folder))
            found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    def input(self, number: int) -> Files:
        """The files of input `number`, the same ones every time."""
        return self.spoil(self.sound, Random(f"livermargin {number}"))


def write_files(files: Files, folder: Path) -> None:
    """Put files into an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        put(folder / name, content)


def _spoil_with(how: dict[str, m.Damage]) -> Callable[[Files, Random], Files]:
    """Damage one file, chosen among those whose name ends so."""

    def spoil(files: Files, rng: Random) -> Files:
        ending = rng.choice(list(how))
        name = rng.choice([name for name in files if name.endswith(ending)])
        return {**files, name: how[ending](files[name], rng)}

    return spoil


def _only(folder: Path) -> Path:
    (path,) = (path for path in folder.iterdir() if path.suffix not in (".raw", ".img"))
    return path


_AS_IMAGE = (lambda f: read_volume(_only(f)), lambda f: read_labels(_only(f)), lambda f: list_images(_only(f)))
_FOLDER_AS_IMAGE = (read_volume, list_images)

# Offsets and struct layouts of the fields of nifti1.h.
_NIFTI_FIELDS = {0: "i", 40: "h", 42: "h", 44: "h", 46: "h", 48: "h", 70: "h", 72: "h", 76: "f", 80: "f", 84: "f",
                 88: "f", 108: "f", 112: "f", 116: "f", 123: "B", 252: "h", 254: "h", 256: "f", 264: "f", 268: "f",
                 280: "f", 284: "f", 300: "f", 320: "f", 344: "i"}  # fmt: skip
_NIFTI = m.any_of(m.damage_binary_field(_NIFTI_FIELDS), m.damage)


def _nifti(folder: Path) -> None:
    put_volume(folder / "image.nii", ct_like((4, 9, 8)))


def _nifti_gz(folder: Path) -> None:
    _nifti(folder)
    plain = (folder / "image.nii").read_bytes()
    table = b'<LabelTable><Label Key="1" Red="1" Green="0" Blue="0">liver</Label></LabelTable>'
    extension = struct.pack("<2i", 16 * -(-(8 + len(table)) // 16), 0) + table
    extension = extension.ljust(16 * -(-len(extension) // 16), b" ")
    header = bytearray(plain[:352])
    header[108:112] = struct.pack("<f", 352 + len(extension))
    header[348] = 1
    (folder / "image.nii").unlink()
    (folder / "image.nii.gz").write_bytes(gzip.compress(bytes(header) + extension + plain[352:], mtime=0))


def _nifti_pair(folder: Path) -> None:
    put_volume(folder / "image.hdr", ct_like((4, 9, 8)))


def _itk(name: str, compressed: bool) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = sitk.GetImageFromArray(ct_like((4, 9, 8)))
        image.SetMetaData("Comment", "made for a test")
        sitk.WriteImage(image, str(folder / name), useCompression=compressed)

    return make


def _labels(name: str) -> Callable[[Path], None]:
    return lambda folder: write_labelmap(example(), folder / name, source=folder)  # type: ignore[return-value]


def _series(folder: Path) -> None:
    write_series(folder, stored_ct(3, 6, 5))


def _one_dicom(folder: Path) -> None:
    save(ct_slice(stored_ct(1, 6, 5)[0]), folder / "image.dcm")


def _multi_frame(folder: Path) -> None:
    save(enhanced(stored_ct(3, 6, 5), [(0, 0, 2 * k) for k in range(3)]), folder / "image.dcm")


def _rle(folder: Path) -> None:
    dataset = ct_slice(stored_ct(1, 16, 16)[0])
    dataset.compress(RLELossless, generate_instance_uid=False)
    save(dataset, folder / "image.dcm")


def _gdcm(compressor: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as other:
            save(ct_slice(stored_ct(1, 16, 16)[0]), Path(other, "image.dcm"))
            image = sitk.ReadImage(str(Path(other, "image.dcm")))
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.SetFileName(str(folder / "image.dcm"))
        writer.Execute(sitk.Cast(image, sitk.sitkInt16))

    return make


def _dicom_seg(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as other:
        write_series(Path(other), stored_ct(3, 6, 5))
        volume = read_volume(other)
        array = np.zeros(volume.geometry.shape, np.uint8)
        array[1:, 2:5, 1:4] = 1
        array[2, 3, 2] = 2
        labels = example()
        labels = type(labels)(array, volume.geometry, labels.segments, {"model": {"name": "unet", "version": "1"}})
        write_labelmap(labels, folder / "seg.dcm", source=Path(other))


def _pictures(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for n, part in enumerate(ct_like((3, 9, 8)) // 8 + 128):
            sitk.WriteImage(sitk.GetImageFromArray(part.astype(np.uint8)), str(folder / f"{n}{suffix}"))

    return make


def _kitti_zip(folder: Path) -> None:
    import zipfile

    with tempfile.TemporaryDirectory() as other, zipfile.ZipFile(folder / "export.zip", "w") as archive:
        _kitti_folder(Path(other))
        for path in sorted(p for p in Path(other).rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(other), zipfile.ZIP_DEFLATED)


def _kitti_folder(folder: Path) -> None:
    put(folder / "label_colors.txt", "0 0 0 background\n250 50 83 liver\n1 2 3 tumour\n")
    put_frame(folder, "0001", two_pieces((28, 20)))
    put_frame(folder, "0002", two_pieces((28, 20)))


def _read_masks(path: Path) -> None:
    export = read_kitti(path)
    for subset in export.subsets:
        for frame in subset.frames:
            export.read_mask(frame)


def _case_folders(folder: Path) -> None:
    put_case(folder / "case_1", slices=3, annotated=(1,), mask=two_pieces((28, 20)))
    put(folder / "cases.csv", "case,patient,age,gender\ncase_1,p1,40,m\n")


def _check(path: Path) -> None:
    check_dataset(open_dataset(path))


def _decathlon(folder: Path) -> None:
    put_volume(folder / "imagesTr/liver_1.nii.gz", ct_like((3, 9, 8)))
    put_volume(folder / "labelsTr/liver_1.nii.gz", (ct_like((3, 9, 8)) > 0).astype(np.uint8))
    description = {
        "name": "Liver", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "numTraining": 1, "numTest": 0, "test": [],
        "training": [{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}],
    }  # fmt: skip
    put(folder / "dataset.json", json.dumps(description))


def _split(folder: Path) -> None:
    cases = {"a": {"patient": "p", "part": "train"}, "b": {"patient": "q", "part": "test"}}
    content = {"schema": 1, "by": "patient", "seed": 3, "stratified_by_size": True,
               "fractions": {"train": 0.5, "test": 0.5}, "cases": cases}  # fmt: skip
    put(folder / "split.json", json.dumps(content))


def _read_split(folder: Path) -> None:
    split = load_split(folder / "split.json")
    if split.by == "patient":
        split.parts(0)
    split.slices("train", 0)


def _bundle(folder: Path) -> None:
    """A U-Net for torch and, under the same name, a small network as a graph: exporting the U-Net takes too long."""
    import onnx
    import safetensors.torch
    from model_tools import tiny_manifest, tiny_unet

    make, rng = onnx.helper, np.random.default_rng(0)
    kernels = {"first": rng.normal(size=(4, 1, 3, 3)), "second": rng.normal(size=(1, 4, 3, 3)), "bias": np.zeros(4)}
    nodes = [
        make.make_node("Conv", ["x", "first", "bias"], ["a"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        make.make_node("Relu", ["a"], ["b"]),
        make.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        make.make_node("Resize", ["c", "", "scales"], ["d"], mode="nearest"),
        make.make_node("Concat", ["b", "d"], ["e"], axis=1),
        make.make_node("Slice", ["e", "from", "to", "axis"], ["f"]),
        make.make_node("Conv", ["f", "second"], ["g"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        make.make_node("Sigmoid", ["g"], ["y"]),
    ]
    constants = {name: value.astype(np.float32) for name, value in kernels.items()}
    constants |= {"scales": np.array([1, 1, 2, 2], np.float32), "from": np.array([0]), "to": np.array([4])}
    constants |= {"axis": np.array([1])}
    shape = ["batch", 1, 32, 32]
    graph = make.make_graph(
        nodes, "g",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    weights = {"model.onnx": model.SerializeToString(),
               "weights.safetensors": safetensors.torch.save(tiny_unet().state_dict())}  # fmt: skip
    write_bundle(folder / "model", tiny_manifest(), weights)


def _sign(files: Files) -> Files:
    """Make the sums in model.json fit the weights, as an attacker would."""
    description = json.loads(files["model/model.json"])
    description["weights"] = {
        name: hashlib.sha256(files[f"model/{name}"]).hexdigest() for name in ("model.onnx", "weights.safetensors")
    }
    return {**files, "model/model.json": json.dumps(description).encode()}


def _damage_safetensors(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.4:
        return m.damage(content, rng)
    size = int.from_bytes(content[:8], "little")
    head = m.damage_json(content[8 : 8 + size], rng)
    announced = len(head) if rng.random() < 0.9 else rng.choice((0, 2**40, 2**63, len(head) + 100))
    return announced.to_bytes(8, "little") + head + content[8 + size :]


def _damage_graph(content: bytes, rng: Random) -> bytes:
    """Edit nodes, attributes and shapes of a graph, which stays a valid message."""
    if rng.random() < 0.3:
        return m.damage(content, rng)
    import onnx

    model = onnx.load_model_from_string(content)
    graph = model.graph
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = rng.choice(graph.node)
        match rng.randrange(7):
            case 0:
                node.op_type = rng.choice((*{other.op_type for other in graph.node}, "Loop", "If", "Tile", "Expand"))
            case 1 if node.attribute:
                attribute = rng.choice(node.attribute)
                numbers = list(attribute.ints) or [attribute.i]
                numbers[rng.randrange(len(numbers))] = rng.choice((0, -1, 3, 2**31, 2**62, -(2**63)))
                attribute.ints[:] = numbers
                attribute.i = numbers[0]
            case 2 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                dims = list(tensor.dims) or [1]
                dims[rng.randrange(len(dims))] = rng.choice((0, -1, 1, 2**20, 2**40, 2**62))
                tensor.dims[:] = dims
            case 3 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                tensor.data_location = onnx.TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value=rng.choice(("/etc/passwd", "../model.json", "x")))
            case 4 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice((*node.output, "", "nowhere"))
            case 5:
                at = graph.input[0].type.tensor_type.shape.dim
                at[rng.randrange(len(at))].dim_value = rng.choice((0, -1, 1, 33, 2**40))
            case _:
                del graph.node[rng.randrange(len(graph.node))]
    return model.SerializeToString()


def _spoil_weights(name: str, how: m.Damage) -> Callable[[Files, Random], Files]:
    return lambda files, rng: _sign({**files, f"model/{name}": how(files[f"model/{name}"], rng)})


def _run_model(runtime: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from LiverMarginLib.inference.segmenter import load_segmenter

        bundle = Bundle.load(folder / "model")
        segmenter = load_segmenter(bundle, device="cpu", runtime=runtime, threads=1)
        segmenter.predict(np.zeros((1, bundle.manifest.channels, *segmenter.input_size), np.float32))

    return run


def _job(folder: Path) -> None:
    job = SegmentJob("ct.nii", "unet-ct", ("a.seg.nrrd",), spacing=(1.0, 1.0, 1.0), slices=(1, 2), threads=1)
    put(folder / "job.json", json.dumps(job.to_dict()))


def _read_job(folder: Path) -> None:
    try:
        values = json.loads((folder / "job.json").read_bytes())
    except (ValueError, RecursionError):
        return
    json.dumps(job_from_dict(values).to_dict())


def _lines(folder: Path) -> None:
    _job(folder)
    job = (folder / "job.json").read_text()
    (folder / "job.json").unlink()
    put(folder / "lines", "\n".join([job, '{"cancel": true}', job, "[]", ""]))


def _damage_lines(content: bytes, rng: Random) -> bytes:
    lines = content.split(b"\n")
    n = rng.randrange(len(lines) - 1)
    lines[n] = m.damage_json(lines[n], rng) if rng.random() < 0.8 else m.damage(lines[n], rng)
    return b"\n".join(lines)


def _speak_to_worker(folder: Path) -> None:
    """Let a worker hear the lines; jobs are understood but not done. Every reply must be one JSON object a line."""
    worker.run = lambda *arguments: {}  # type: ignore[assignment]
    worker._leave = lambda: None
    worker.GRACE_SECONDS = 0.01  # a quick machine would have hundreds of timers waiting, and no room for another
    replies = io.StringIO()
    assert worker.Worker(io.BytesIO((folder / "lines").read_bytes()), replies).serve() == 0
    for line in replies.getvalue().split("\n")[:-1]:
        reply = json.loads(line)
        assert reply["event"] in ("ready", "error")
        if reply["event"] == "error" and reply["kind"] != "internal":
            LiverMarginError(reply["message"])
        assert reply.get("kind") != "internal", reply["details"]


TARGETS = {
    "nifti": Target(_nifti, _spoil_with({".nii": _NIFTI}), _AS_IMAGE),
    "nifti-gz": Target(_nifti_gz, _spoil_with({".gz": m.any_of(m.inside_gzip(_NIFTI), m.damage)}), _AS_IMAGE),
    "nifti-pair": Target(_nifti_pair, _spoil_with({".hdr": _NIFTI, ".img": m.damage}), _AS_IMAGE),
    "nrrd": Target(_itk("image.nrrd", False), _spoil_with({".nrrd": m.any_of(m.damage_text_header, m.damage)}),
                   _AS_IMAGE),
    "nrrd-gz": Target(_itk("image.nrrd", True), _spoil_with({".nrrd": m.any_of(m.damage_text_header, m.damage)}),
                      _AS_IMAGE),
    "nhdr": Target(_itk("image.nhdr", False), _spoil_with({".nhdr": m.damage_text_header, ".raw": m.damage}),
                   _AS_IMAGE),
    "mha": Target(_itk("image.mha", True), _spoil_with({".mha": m.any_of(m.damage_text_header, m.damage)}), _AS_IMAGE),
    "mhd": Target(_itk("image.mhd", False), _spoil_with({".mhd": m.damage_text_header, ".raw": m.damage}), _AS_IMAGE),
    "seg-nrrd": Target(_labels("labels.seg.nrrd"),
                       _spoil_with({".nrrd": m.any_of(m.damage_text_header, m.damage_text_header, m.damage)}),
                       _AS_IMAGE),
    "dicom": Target(_one_dicom, _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "dicom-folder": Target(_series, _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _FOLDER_AS_IMAGE),
    "dicom-frames": Target(_multi_frame, _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "dicom-rle": Target(_rle, _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "dicom-jpeg": Target(_gdcm("JPEG"), _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "dicom-j2k": Target(_gdcm("JPEG2000"), _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "dicom-seg": Target(_dicom_seg, _spoil_with({".dcm": m.any_of(m.damage_dicom, m.damage)}), _AS_IMAGE),
    "png": Target(_pictures(".png"), _spoil_with({".png": m.damage_png}), (read_volume, read_labels, list_images)),
    "jpeg": Target(_pictures(".jpg"), _spoil_with({".jpg": m.damage}), (read_volume, read_labels, list_images)),
    "tiff": Target(_pictures(".tif"), _spoil_with({".tif": m.damage}), (read_volume, read_labels, list_images)),
    "kitti-zip": Target(_kitti_zip, _spoil_with({".zip": m.any_of(m.damage_zip(m.damage_png, ".png"),
                                                                 m.damage_zip(m.damage, ".txt"))}),
                        (lambda f: _read_masks(_only(f)), lambda f: _check(_only(f)))),
    "kitti-folder": Target(_kitti_folder, _spoil_with({".png": m.damage_png, ".txt": m.damage}),
                           (_read_masks, _check)),
    "case-folders": Target(_case_folders, _spoil_with({".csv": m.damage, ".txt": m.damage, ".png": m.damage_png}),
                           (_check,)),
    "dataset-json": Target(_decathlon, _spoil_with({".json": m.damage_json}), (_check,)),
    "split-json": Target(_split, _spoil_with({".json": m.damage_json}), (_read_split,)),
    "model-json": Target(_bundle, _spoil_with({".json": m.damage_json}), (_run_model("onnx"), _run_model("torch"))),
    "safetensors": Target(_bundle, _spoil_weights("weights.safetensors", _damage_safetensors),
                          (_run_model("torch"),)),
    "onnx": Target(_bundle, _spoil_weights("model.onnx", _damage_graph), (_run_model("onnx"),)),
    "job-json": Target(_job, _spoil_with({".json": m.damage_json}), (_read_job,)),
    "worker-lines": Target(_lines, _spoil_with({"lines": _damage_lines}), (_speak_to_worker,)),
}  # fmt: skip


def check(target: Target, folder: Path) -> list[str]:
    """Read the files in `folder` in every way; return what came out that must not."""
    found = []
    for read in target.read:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(folder)
        except LiverMarginError as error:
            found += _bad_manners(error)
        except Exception as error:
            found.append(f"{type(error).__name__} at {_place(error)}: {str(error)[:200]!r}")
    return found


def _bad_manners(error: LiverMarginError) -> list[str]:
    """A user reads one line that a terminal only shows; and no file of a few kilobytes takes 2 GB of memory."""
    if not error.message.isprintable():
        return [f"a message with control characters at {_place(error)}: {error.message[:200]!r}"]
    if len(error.message) > 1500:
        return [f"a message that is too long at {_place(error)}: {len(error.message)} characters"]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "bad_alloc" in str(cause) or "std::bad" in str(cause):
            return [f"memory over the limit at {_place(error)}: {error.message[:200]!r}"]
        cause = cause.__cause__
    return []


def _place(error: BaseException) -> str:
    """The last line of our own that the error went through."""
    place, trace = "nowhere", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "LiverMarginLib" in name:
            place = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place

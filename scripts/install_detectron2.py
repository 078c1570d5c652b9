#!/usr/bin/env python3
"""Install Detectron2 for LiverMargin: at one known commit, in pure Python, without a compiler.

Detectron2 has no package in the registry, and building it the usual way needs a C++ compiler that matches PyTorch. The
compiled part serves rotated boxes, deformable convolutions and a fast COCO evaluation; Mask R-CNN and PointRend use
none of it (their RoIAlign and NMS are torchvision's). So this script takes the source, packs its Python files into an
ordinary wheel and lets pip install that; `pip uninstall detectron2` removes it again.

    python scripts/install_detectron2.py                              # from the public repository, at the pinned commit
    python scripts/install_detectron2.py --source detectron2.zip      # offline: an archive or a folder
    python scripts/install_detectron2.py --python ~/envs/d2/bin/python
    python scripts/install_detectron2.py --check                      # only build a model and run it

PyTorch must be there already. It, NumPy, SciPy and SimpleITK are never replaced: pip is told to keep their versions,
and they are compared afterwards.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REPOSITORY = "https://github.com/facebookresearch/detectron2"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
# SHA-256 of the Python files that are installed, see `digest_of`: it proves the commit whichever way the files came.
COMMIT_DIGEST = "efc43842d8704454679dbce68db0a3f75cced5eb5ddec2e32265802759e29d2c"

# What importing and training Mask R-CNN needs. Left out of Detectron2's own list: tensorboard, black and hydra-core,
# which it imports only for features that LiverMargin does not use.
REQUIREMENTS = (
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "omegaconf>=2.1,<2.4",
    "yacs>=0.1.8",
    "pycocotools>=2.0.2",
    "cloudpickle",
    "tabulate",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "matplotlib",
    "Pillow>=7.1",
    "packaging",
)
PROTECTED = ("torch", "torchvision", "numpy", "scipy", "SimpleITK")

PROBE = """
import importlib.metadata, importlib.util, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
names = sys.argv[1:]
print(json.dumps({"python": sys.version.split()[0], "versions": {name: version(name) for name in names},
                  "opencv": importlib.util.find_spec("cv2") is not None}))
"""

VERIFY = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import torch, torchvision, detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_model
cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
cfg.MODEL.RESNETS.DEPTH = 18
cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
cfg.MODEL.MASK_ON = True
cfg.MODEL.PIXEL_MEAN = [0.5]
cfg.MODEL.PIXEL_STD = [0.25]
torch.manual_seed(0)
model = build_model(cfg).eval()
start = time.perf_counter()
with torch.no_grad():
    found = model([{"image": torch.rand(1, 128, 128)}])[0]["instances"]
seconds = time.perf_counter() - start
assert found.pred_masks.shape[1:] == (128, 128), "the masks have the wrong size"
assert len(found) > 0, "the model found no box although every score was allowed"
try:
    import detectron2.projects.point_rend
    point_rend = True
except ImportError:
    point_rend = False
print(json.dumps({
    "detectron2": detectron2.__version__, "folder": detectron2.__path__[0], "torch": torch.__version__,
    "torchvision": torchvision.__version__, "parameters": sum(p.numel() for p in model.parameters()),
    "instances": len(found), "seconds": round(seconds, 2), "point_rend": point_rend,
}))
"""


class InstallError(Exception):
    """What went wrong and what to do, in one sentence; the installation is then as it was, unless the text says so."""


@dataclass(frozen=True)
class Target:
    """The Python that Detectron2 is installed into."""

    executable: str
    python: str
    versions: dict[str, str | None]
    opencv: bool


def say(text: str) -> None:
    print(text, flush=True)


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables by which 3D Slicer would bend another Python."""
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONHOME", "PYTHONPATH"}}


def run_python(executable: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The Python of 3D Slicer does not start without those variables.
    environment = dict(os.environ) if executable == sys.executable else clean_environment()
    try:
        return subprocess.run([executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise InstallError(f"Cannot start the Python {executable}: give another one with --python.") from error


def probe(executable: str) -> Target:
    """Ask the target Python for its version and those of the packages that must not change."""
    answer = run_python(executable, "-c", PROBE, *PROTECTED)
    try:
        values = json.loads(answer.stdout)
    except ValueError as error:
        raise InstallError(f"{executable} does not answer like a Python: give another one with --python.") from error
    return Target(executable, values["python"], values["versions"], values["opencv"])


def from_git(repository: str, commit: str, folder: Path) -> bool:
    """Check out `commit` with git; git itself proves that the files are those of the commit. False where it fails."""
    if shutil.which("git") is None:
        return False
    steps = (
        ["init", "--quiet"],
        ["fetch", "--quiet", "--depth", "1", repository, commit],
        ["-c", "core.autocrlf=false", "checkout", "--quiet", "FETCH_HEAD"],
    )
    folder.mkdir(parents=True)
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    return all(
        subprocess.run(["git", *step], cwd=folder, env=environment, capture_output=True, check=False).returncode == 0
        for step in steps
    )


def download(repository: str, commit: str, folder: Path) -> Path:
    """Fetch the source of `commit` by git, else as an archive; return the folder that holds it."""
    checkout = folder / "git"
    if from_git(repository, commit, checkout):
        return checkout
    archive = folder / "detectron2.zip"
    address = f"{repository}/archive/{commit}.zip"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, OSError) as error:
        raise InstallError(
            f"Cannot fetch {address}: without a network, bring that file here yourself and give it with --source."
        ) from error
    return unpack(archive, folder / "unpacked")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar archive; no member of it can leave `folder`."""
    folder.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        else:
            with tarfile.open(archive) as file:
                if hasattr(tarfile, "data_filter"):
                    file.extractall(folder, filter="data")
                else:  # Python before 3.11.4
                    file.extractall(folder, members=_files_inside(file))
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise InstallError(f"{archive.name} is not a whole zip or tar archive: fetch it again.") from error
    return folder


def _files_inside(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Files and folders of an archive, without links and devices; one that would leave the target is refused."""
    for member in archive.getmembers():
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.name:
            raise tarfile.TarError(f"{member.name} lies outside of the target")
    return [member for member in archive.getmembers() if member.isfile() or member.isdir()]


def find_root(folder: Path) -> Path:
    """Return the folder, at or below `folder`, that holds the package ``detectron2``."""
    for candidate in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if (candidate / "detectron2" / "modeling" / "meta_arch" / "rcnn.py").is_file():
            return candidate
    raise InstallError(f"There is no Detectron2 source in {folder}: it must hold the folder 'detectron2'.")


def package_files(root: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield (path in the wheel, file) of what is installed: the package, and PointRend where Detectron2 puts it."""
    for base, prefix in (
        (root / "detectron2", PurePosixPath("detectron2")),
        (root / "projects" / "PointRend" / "point_rend", PurePosixPath("detectron2/projects/point_rend")),
    ):
        for path in sorted(base.rglob("*.py")):
            relative = PurePosixPath(path.relative_to(base).as_posix())
            # A source tree that somebody has built holds the model zoo's configurations as a link.
            if relative.parts[:2] != ("model_zoo", "configs"):
                yield prefix / relative, path


def digest_of(root: Path) -> str:
    """SHA-256 over the installed files' paths and contents, the same for Unix and Windows line ends."""
    total = hashlib.sha256()
    for name, path in sorted(package_files(root)):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def version_of(root: Path) -> str:
    for line in (root / "detectron2" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split("=")[1].strip().strip("\"'")
    raise InstallError("The Detectron2 source names no version: it is not whole.")


def build_wheel(root: Path, folder: Path, local_version: str) -> Path:
    """Pack the Python files as a wheel (PEP 427) by hand: the project's own setup.py insists on compiling."""
    version = f"{version_of(root)}+{local_version}"
    info = f"detectron2-{version}.dist-info"
    metadata = "\n".join(
        [
            "Metadata-Version: 2.1",
            "Name: detectron2",
            f"Version: {version}",
            "Summary: Detectron2 without its compiled part, packed by LiverMargin's install_detectron2.py",
            f"Home-page: {REPOSITORY}",
            *(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS),
            "",
        ]
    )
    tags = "Wheel-Version: 1.0\nGenerator: livermargin\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents = {str(name): path.read_bytes() for name, path in package_files(root)}
    contents |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": tags.encode()}
    if (root / "LICENSE").is_file():
        contents[f"{info}/LICENSE"] = (root / "LICENSE").read_bytes()

    record = io.StringIO()
    writer = csv.writer(record, lineterminator="\n")
    for name, content in contents.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={checksum}", len(content)])
    writer.writerow([f"{info}/RECORD", "", ""])

    wheel = folder / f"detectron2-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
        file.writestr(f"{info}/RECORD", record.getvalue())
    return wheel


def pip(target: Target, *arguments: str) -> None:
    command = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    answer = run_python(target.executable, *command)
    if answer.returncode != 0:
        lines = (answer.stderr or answer.stdout).strip().splitlines()
        reasons = [line for line in lines if line.startswith("ERROR") or "No module named pip" in line]
        reason = (reasons or lines or ["pip failed"])[0]
        raise InstallError(f"pip could not install what Detectron2 needs ({reason}).")


def install_requirements(target: Target, folder: Path, point_rend: bool, pip_options: list[str]) -> None:
    """Install what Detectron2 imports, with the protected packages held at the versions they have."""
    held = folder / "held.txt"
    held.write_text("".join(f"{name}=={version}\n" for name, version in target.versions.items() if version))
    wanted = [*REQUIREMENTS]
    if target.versions["torchvision"] is None:
        # Each torchvision asks for exactly one torch, so holding torch chooses the right one.
        wanted.append("torchvision")
    if point_rend and not target.opencv:
        # PointRend imports it for a colour augmentation; asked for only where no other build of OpenCV is there.
        wanted.append("opencv-python-headless")
    pip(target, "--constraint", str(held), *pip_options, *wanted)


def verify(target: Target) -> dict[str, object]:
    """Build a small one-channel Mask R-CNN in the target Python and run one forward pass."""
    # From an empty folder: a source tree in the working folder must not stand in for what was installed.
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "verify.py"
        script.write_text(VERIFY, encoding="utf-8")
        answer = run_python(target.executable, str(script))
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        hint = ""
        if "torchvision::nms" in answer.stderr:
            hint = " The installed torchvision was built for another PyTorch: install the pair from one place."
        raise InstallError(f"Detectron2 does not run in {target.executable}: {reason}.{hint}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def report(target: Target) -> None:
    facts = verify(target)
    say(f"Verified: Mask R-CNN R18-FPN of {facts['parameters']:,} parameters built, one forward pass on the CPU in")
    say(f"  {facts['seconds']} s, {facts['instances']} boxes with masks (random weights).")
    say(f"Detectron2 {facts['detectron2']} in {facts['folder']}")
    say(f"  with torch {facts['torch']}, torchvision {facts['torchvision']};")
    without = "no (it needs projects/PointRend in the source, and OpenCV)"
    say(f"  PointRend: {'yes' if facts['point_rend'] else without}")


def obtain_source(options: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """Return the source's root folder and the local version label that says what it is."""
    if options.source is None:
        say(f"Fetching Detectron2 {COMMIT[:12]} from {options.repository} ...")
        root = find_root(download(options.repository, COMMIT, folder))
    elif options.source.is_dir():
        root = find_root(options.source.resolve())
    elif options.source.is_file():
        root = find_root(unpack(options.source, folder / "unpacked"))
    else:
        raise InstallError(f"{options.source} does not exist: give an archive or a folder with --source.")

    if digest_of(root) == COMMIT_DIGEST:
        say(f"Source: commit {COMMIT}, every installed file checked against its SHA-256.")
        return root, f"commit.{COMMIT[:12]}"
    if options.source is None:
        raise InstallError("What was fetched is not the pinned commit: nothing was installed.")
    say(f"Source: NOT the commit that LiverMargin is tested with ({COMMIT[:12]}), or changed; going on as you gave it.")
    return root, f"files.{digest_of(root)[:12]}"


def install(options: argparse.Namespace) -> None:
    target = probe(options.python)
    known = ", ".join(f"{name} {version or 'absent'}" for name, version in target.versions.items())
    say(f"Into Python {target.python} ({target.executable}): {known}")
    if target.versions["torch"] is None:
        raise InstallError(
            "This Python has no PyTorch: install torch first (in 3D Slicer with the PyTorch extension), then run again."
        )
    if options.check:
        report(target)
        return

    pip_options: list[str] = []
    if options.wheels is not None:
        pip_options += ["--no-index", "--find-links", str(options.wheels.resolve())]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, label = obtain_source(options, folder)
        wheel = build_wheel(root, folder, label)
        say(f"Packed {wheel.name} (pure Python, no compiler)")
        say(f"Installing what it imports: {', '.join(REQUIREMENTS)}")
        point_rend = (root / "projects" / "PointRend" / "point_rend" / "__init__.py").is_file()
        install_requirements(target, folder, point_rend, pip_options)
        pip(target, "--no-deps", "--no-index", "--force-reinstall", str(wheel))

    after = probe(target.executable).versions
    changed = [name for name, version in target.versions.items() if version and after[name] != version]
    if changed:
        raise InstallError(f"The installation changed {', '.join(changed)}: put the old versions back.")
    say(f"Installed. Unchanged: {', '.join(name for name, version in target.versions.items() if version)}.")
    report(target)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="archive (zip, tar) or folder of the source, for offline sites")
    parser.add_argument("--python", default=sys.executable, help="the Python to install into (default: this one)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of the dependencies, for offline sites")
    parser.add_argument("--repository", default=REPOSITORY, help="address of a mirror of the public repository")
    parser.add_argument("--check", action="store_true", help="install nothing; only build a model and run it")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the installer; return 0, or 3 when a package is missing or does not work."""
    try:
        install(parse(arguments))
    except InstallError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

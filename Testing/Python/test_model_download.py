"""Models from elsewhere: offered, downloaded from an address, added from a zip."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_tools import one_sentence

from LiverMarginLib.cli import main
from LiverMarginLib.errors import BundleError, Cancelled, InputError, LiverMarginError, ResourceError
from LiverMarginLib.events import CancelToken, Progress, ignore
from LiverMarginLib.io.download import download
from LiverMarginLib.jobs import job_from_dict, run
from LiverMarginLib.jobs.models import AddModelJob
from LiverMarginLib.models import store
from LiverMarginLib.models.offers import Offer, list_offers, read_offers
from LiverMarginLib.models.store import find_bundle, user_model_folder


def pack(folder: Path, path: Path, inside: str = "tiny/", more: dict[str, bytes] | None = None) -> str:
    """Zip a bundle; its sha256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inside + file.name)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/tiny.zip")
            self.end_headers()
        elif self.path == "/local.zip":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/short.zip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 100)
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder of the user's models, and no others."""
    monkeypatch.setattr(store, "_PACKAGE", tmp_path / "tree" / "LiverMarginLib")
    monkeypatch.setattr(store.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("LIVERMARGIN_MODELS", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return user_model_folder()


@pytest.fixture
def server(tiny_model, tmp_path) -> Iterator[tuple[str, str]]:
    """Address of a server of this machine that has tiny.zip, and the zip's sha256."""
    root = tmp_path / "served"
    root.mkdir()
    digest = pack(tiny_model.folder, root / "tiny.zip")
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", digest
        running.shutdown()
        thread.join()


def offer(address: str, digest: str, **changes) -> dict[str, object]:
    return {
        "name": "tiny",
        "version": "1.0.0",
        "description": "for tests",
        "licence": "Apache-2.0",
        "url": address,
        "sha256": digest,
        "bytes": 10_000_000,
    } | changes


def offers(folder: Path, *entries: dict[str, object], **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "available.json"
    content = {"schema": "livermargin.models", "schema_version": 1, "models": list(entries)} | changes
    path.write_text(json.dumps(content))
    return path


def test_a_model_is_downloaded_checked_and_found_by_name(server, place, tiny_model):
    address, digest = server
    events: list[object] = []
    job = AddModelJob(f"{address}/moved.zip", digest.upper())
    result = run(job_from_dict(json.loads(json.dumps(job.to_dict()))), events.append)
    assert Path(result["folder"]) == place / "tiny" and result["version"] == "1.0.0"
    assert find_bundle("tiny").manifest == tiny_model.manifest
    assert sorted(p.name for p in place.iterdir()) == ["tiny"]
    loaded = [event for event in events if isinstance(event, Progress) and event.stage == "download"]
    assert loaded[-1].done == loaded[-1].total > 1000


def test_an_offered_model_is_listed_and_got_by_its_name(server, place, capsys):
    address, digest = server
    offers(place, offer(f"{address}/tiny.zip", digest))
    assert main(["models", "available", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["models"]
    assert [(entry["name"], entry["here"]) for entry in listed] == [("tiny", None)]
    assert main(["models", "get", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(place / "tiny")
    main(["models", "available", "--json"])
    assert json.loads(capsys.readouterr().out)["models"][0]["here"] == "1.0.0"
    assert main(["models", "get", "tiny"]) == InputError.exit_code  # it is there already
    assert main(["models", "get", "tiny", "--overwrite"]) == 0
    assert main(["models", "get", "other"]) == InputError.exit_code
    assert "available models: tiny" in capsys.readouterr().err


def refused(job: AddModelJob, kind: type[LiverMarginError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        run(job)
    assert one_sentence(caught.value.message)
    folder = user_model_folder()
    assert not folder.exists() or not [p for p in folder.iterdir() if p.name != "available.json"]
    return caught.value.message


def test_a_file_that_is_not_the_one_that_is_meant_is_not_installed(server, place, tmp_path):
    address, digest = server
    assert "sha256 is another one" in refused(AddModelJob(f"{address}/tiny.zip", "0" * 64))
    assert "sha256 is another one" in refused(AddModelJob(str(tmp_path / "served" / "tiny.zip"), "0" * 64))
    offers(place, offer(f"{address}/tiny.zip", digest, name="other"))
    assert "not 'other'" in refused(AddModelJob("other"))
    offers(place, offer(f"{address}/tiny.zip", digest, bytes=500))
    assert "larger than it should be" in refused(AddModelJob("tiny"))


def test_addresses_that_cannot_be_used_are_refused_with_one_sentence(server, place):
    address, digest = server
    assert "--sha256" in refused(AddModelJob(f"{address}/tiny.zip"))
    assert "64 hexadecimal digits" in refused(AddModelJob(f"{address}/tiny.zip", "abc"))
    assert "HTTP 404" in refused(AddModelJob(f"{address}/absent.zip", digest))
    assert "HTTP 302" in refused(AddModelJob(f"{address}/local.zip", digest))  # leads to a file of this machine
    assert "broke off" in refused(AddModelJob(f"{address}/short.zip", digest), ResourceError)
    for url in ("file:///etc/passwd", "ftp://example.org/a.zip", "http://", "http://[bad/x.zip"):
        assert "begins with https://" in refused(AddModelJob(url, digest))
    assert "cannot be reached" in refused(AddModelJob("http://127.0.0.1:9/x.zip", digest), ResourceError)


def test_a_download_can_be_cancelled(server, tmp_path):
    address, digest = server
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        download(f"{address}/tiny.zip", digest, tmp_path / "part", most_bytes=10**7, on_event=ignore, cancel=token)


def test_a_zip_on_disk_is_added_whether_the_bundle_lies_in_a_folder_of_it_or_not(place, tiny_model, tmp_path):
    digest = pack(tiny_model.folder, tmp_path / "flat.zip", inside="", more={"failure.png": b"a picture"})
    run(AddModelJob(str(tmp_path / "flat.zip"), digest, str(tmp_path / "mine")))
    assert find_bundle("tiny", tmp_path / "mine").folder == tmp_path / "mine" / "tiny"
    assert (tmp_path / "mine" / "tiny" / "failure.png").read_bytes() == b"a picture"
    with pytest.raises(InputError, match="already"):
        run(AddModelJob(str(tmp_path / "flat.zip"), None, str(tmp_path / "mine")))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tiny/setup.py": b"import os"}, "files that no model has"),
        ({"tiny/deep/model.json": b"{}"}, "holds 2 models"),
        ({"../evil.png": b"x"}, "points outside the zip"),
        ({"other/weights.bin": b"x"}, "files that no model has"),
    ],
)
def test_a_hostile_zip_is_refused_whole(place, tiny_model, tmp_path, more, why):
    pack(tiny_model.folder, tmp_path / "evil.zip", more=more)
    assert why in refused(AddModelJob(str(tmp_path / "evil.zip")))


def test_a_link_a_bomb_and_a_damaged_bundle_are_refused(place, tiny_model, tmp_path):
    path = tmp_path / "link.zip"
    pack(tiny_model.folder, path)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("tiny/README2.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "holds a link" in refused(AddModelJob(str(path)))
    pack(tiny_model.folder, tmp_path / "bomb.zip", more={"tiny/zeros.png": bytes(200 << 20)})
    assert "zip bomb" in refused(AddModelJob(str(tmp_path / "bomb.zip")))
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
        for file in tiny_model.folder.iterdir():
            content = file.read_bytes()
            archive.writestr(file.name, content[:-1] + b"!" if file.name == "weights.safetensors" else content)
    assert "damaged or has been changed" in refused(AddModelJob(str(tmp_path / "changed.zip")), BundleError)
    (tmp_path / "text.zip").write_text("no zip")
    assert "not a zip" in refused(AddModelJob(str(tmp_path / "text.zip")))


def test_the_shipped_list_of_available_models_can_be_read():
    path = Path(__file__).resolve().parents[2] / "Resources" / "Models" / "available.json"
    assert all(isinstance(entry, Offer) for entry in read_offers(path))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"url": "file:///etc/passwd"}, "https://"),
        ({"sha256": "12"}, "hexadecimal"),
        ({"name": "../up"}, "name is not"),
        ({"bytes": 0}, "size"),
        ({"bytes": True}, "whole number"),
        ({"extra": 1}, "unknown entry"),
    ],
)
def test_a_list_with_impossible_entries_is_refused(place, entry, why):
    offers(place, offer("https://example.org/a.zip", "0" * 64, **entry))
    with pytest.raises(BundleError, match=why) as caught:
        list_offers()
    assert one_sentence(caught.value.message)


def test_a_list_of_another_kind_or_no_json_is_refused(place):
    for content in ('{"schema": "x", "schema_version": 1, "models": []}', "[" * 100_000, "nothing"):
        offers(place).write_text(content)
        with pytest.raises(BundleError, match="cannot be used"):
            list_offers()

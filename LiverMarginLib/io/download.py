"""Download one file whose sha256 is known: the only place where the library asks the network for anything."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from LiverMarginLib.errors import InputError, ResourceError, technical
from LiverMarginLib.events import CancelToken, OnEvent, Progress

_SCHEMES = ("http", "https")
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to the web, and never from an encrypted address to a plain one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in _SCHEMES or (req.type == "https" and scheme != "https"):
            raise InputError("The address leads to another kind of address, which is not followed; check it.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    url: str,
    sha256: str,
    path: Path,
    *,
    most_bytes: int,
    on_event: OnEvent,
    cancel: CancelToken,
) -> None:
    """Download a file, and make sure that it is the one that is meant.

    Parameters
    ----------
    url : str
        ``https://`` or ``http://``: the sha256 is what is trusted, not the way.
    sha256 : str
        64 lower-case hexadecimal digits.
    path : Path
        Where it goes; a temporary file of the caller, who removes it when this fails.
    most_bytes : int
        More is not taken.
    on_event : callable
        Hears `Progress`, stage ``download``, in bytes.
    cancel : CancelToken

    Raises
    ------
    InputError
        If the address is none, the server has no such file, or it is too large or not the one that is meant.
    ResourceError
        If the server cannot be reached or the connection breaks.
    Cancelled
        If `cancel` was raised.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in _SCHEMES and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise InputError("The address of a model begins with https:// or http:// and names a server; check it.")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _WebOnly,
    ):
        opener.add_handler(handler())  # without those for files and ftp, which the usual opener has
    digest, done = hashlib.sha256(), 0
    try:
        with opener.open(urllib.request.Request(url), timeout=_TIMEOUT) as answer, path.open("wb") as file:
            declared = answer.headers.get("Content-Length", "")
            total = int(declared) if declared.isdecimal() else 0
            while chunk := answer.read(_CHUNK):
                cancel.check()
                done += len(chunk)
                if max(done, total) > most_bytes:
                    raise InputError("The file at this address is larger than it should be, so it was not taken.")
                digest.update(chunk)
                file.write(chunk)
                on_event(Progress(done, max(total, done), "download"))
        if done < total:
            raise ConnectionError(f"{done} of {total} bytes came")
    except urllib.error.HTTPError as error:
        raise InputError(
            f"The server {parts.hostname} does not give this file (HTTP {error.code}); check the address.",
            technical(error),
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise ResourceError(
            f"The server {parts.hostname} cannot be reached or broke off; try again, or download the file by other "
            "means and add it from disk.",
            technical(error),
        ) from error
    if digest.hexdigest() != sha256:
        raise InputError(
            "The file that came is not the one that is meant: its sha256 is another one; nothing was installed, so "
            "check address and sha256 with the model's owner."
        )

"""From an address to a file that is whole, or to no file.

A server is believed in nothing: it may send more than it announced or less, something else, or the
way to a file of this machine. What is kept has the length and the digest that were stated for it.
"""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from robustkit.errors import FetchError, NotPermitted, Unreachable, cut, first_line, one_line
from robustkit.fetching.places import offline
from robustkit.files import writing

CHUNK = 2**20
MOST = 2**36
"""bytes of a file, 64 GiB, whatever is stated"""
SILENCE = 30
"""seconds without a byte"""
AGENT = {"User-Agent": "robustkit", "Accept-Encoding": "identity"}
Progress = Callable[[str, int, int | None], None]
"""is told a file's name, the bytes that are there, and how many there will be, if that is known"""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at an address, and what is stated of it."""

    url: str
    name: str
    """for messages"""
    size: int | None = None
    """bytes"""
    sha256: str = ""
    """or the beginning of it"""
    git: str = ""
    """SHA-1 as git has it, of the length and the bytes"""
    most: int = MOST
    """bytes, where no size is stated"""


def download(remote: Remote, path: Path, progress: Progress | None = None) -> None:
    """Fetch a file; it stands under its name when all of it is there and as stated, never before.

    Raises:
        Unreachable: no connection.
        FetchError: the server has no such file, or what it sends is not what was stated.
    """
    make_folder(path.parent)
    with _response(remote) as (answer, length):
        if answer.headers.get_content_type() == "text/html":
            raise FetchError(f"{remote.name}: the server sends a web page instead of the file")
        _check_room(remote, length, path.parent)
        with writing(path) as file:
            _copied(remote, answer, length, file, progress)


def make_folder(folder: Path) -> None:
    """Make a folder of a cache.

    Raises:
        FetchError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"{folder}: cannot create this folder ({error.strerror or error})"
        ) from error


def fetch_text(url: str, name: str, most: int) -> bytes:
    """A short document.

    Raises:
        Unreachable: no connection.
        FetchError: there is none, or it is longer.
    """
    remote = Remote(url, name, most=most)
    with _response(remote) as (answer, _):
        found = _read(remote, answer, most + 1)
        if len(found) > most:
            raise FetchError(f"{name}: the server's answer is longer than {most:,} bytes; refused")
        return found


def check_bytes(remote: Remote, path: Path) -> None:
    """Nothing, if a file that is there already is as stated.

    Raises:
        FetchError: it is not.
    """
    seen = _Seen(remote, path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            seen.take(chunk)
    try:
        seen.check()
    except FetchError as error:
        raise FetchError(
            f"{error} ({path}); delete that file, and it is downloaded again"
        ) from error


class _Seen:
    """The bytes so far: how many, and their digest."""

    def __init__(self, remote: Remote, size: int | None) -> None:
        self.remote, self.count = remote, 0
        self.hash = hashlib.sha1() if remote.git else hashlib.sha256()
        if remote.git:
            self.hash.update(b"blob %d\0" % (size or 0))

    def take(self, chunk: bytes) -> None:
        self.count += len(chunk)
        self.hash.update(chunk)

    def check(self) -> None:
        """Raises FetchError where they are not those that were stated."""
        name, size = self.remote.name, self.remote.size
        if size is not None and self.count != size:
            raise FetchError(f"{name}: {self.count:,} bytes, expected {size:,}")
        stated = self.remote.git or self.remote.sha256
        if not self.hash.hexdigest().startswith(stated.lower()):
            raise FetchError(
                f"{name}: its digest is {self.hash.hexdigest()[: max(len(stated), 8)]}…, "
                f"expected {stated}: damaged or replaced in transit; refused"
            )


class _Web(urllib.request.HTTPRedirectHandler):
    """Redirections to the web alone, and to no less safe a protocol."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """The request that follows; as urllib's own."""
        target, source = urlsplit(urljoin(req.full_url, newurl)).scheme, req.type
        if target != "https" and (target, source) != ("http", "http"):
            raise FetchError(f"the server redirects to {cut(newurl)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Of the web alone: neither files nor FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPDefaultErrorHandler,
        _Web,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def _response(remote: Remote) -> Iterator[tuple[Any, int | None]]:
    """The server's answer, and how long it says that it is.

    Raises:
        Unreachable: no connection, or it broke off.
        FetchError: no such file, or more bytes than stated.
    """
    if variable := offline():
        raise Unreachable(f"{remote.name}: not downloaded, because {variable} is set")
    host = urlsplit(remote.url).hostname or remote.url
    try:
        with _opener().open(
            urllib.request.Request(remote.url, headers=AGENT), timeout=SILENCE
        ) as answer:
            yield answer, _length(remote, answer)
    except urllib.error.HTTPError as error:
        error.close()
        kind = NotPermitted if error.code in (401, 403) else FetchError
        raise kind(f"{remote.name}: {_refusal(error.code, host)}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, FetchError):
            raise FetchError(f"{remote.name}: {reason}") from error
        said = first_line(reason) if isinstance(reason, Exception) else str(reason)
        raise Unreachable(f"{remote.name}: no connection to {host} ({said})") from error
    except FetchError as error:
        said = str(error)
        told = said if said.startswith(remote.name) else f"{remote.name}: {said}"
        raise type(error)(told) from error
    except (http.client.HTTPException, ValueError) as error:
        raise FetchError(
            f"{remote.name}: the answer of {host} cannot be read ({one_line(error)})"
        ) from error


def _read(remote: Remote, answer: IO[bytes], count: int) -> bytes:
    """So many bytes, or less at the end.

    Raises:
        Unreachable: the connection broke off.
    """
    try:
        return answer.read(count)
    except (http.client.HTTPException, OSError) as error:
        raise Unreachable(
            f"{remote.name}: the connection broke off ({first_line(error)}); nothing is kept, try "
            "again"
        ) from error


def _refusal(code: int, host: str) -> str:
    if 300 <= code < 400:
        return (
            f"{host} redirects (status {code}) to something that is not a web address, or in "
            "circles"
        )
    if code in (401, 403):
        return f"{host} requires permission (status {code}): private, gated, or no such name"
    if code in (404, 410):
        return f"{host} has nothing under that name (status {code})"
    return f"{host} answers with status {code}; try again later"


def _length(remote: Remote, answer: Any) -> int | None:
    """How long the answer is, as its head says.

    Raises:
        FetchError: other than was stated, too long, or compressed.
    """
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise FetchError(f"{remote.name}: sent with the encoding {cut(coding)}; refused")
    text = answer.headers.get("Content-Length") or ""
    length = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
    if None not in (length, remote.size) and length != remote.size:
        raise FetchError(
            f"{remote.name}: the server announces {length:,} bytes, expected {remote.size:,}"
        )
    if (length or 0) > (most := _most(remote)):
        raise FetchError(
            f"{remote.name}: the server announces {length:,} bytes, more than {most:,}; refused"
        )
    return remote.size if length is None else length


def _most(remote: Remote) -> int:
    return remote.most if remote.size is None else remote.size


def _check_room(remote: Remote, length: int | None, folder: Path) -> None:
    if length is not None and length > (free := shutil.disk_usage(folder).free):
        raise FetchError(f"{remote.name}: {length:,} bytes, but {folder} has only {free:,} free")


def _copied(
    remote: Remote, answer: IO[bytes], length: int | None, file: Any, progress: Progress | None
) -> None:
    """Copy, and check.

    Raises:
        FetchError: more bytes than announced, fewer, or others.
    """
    most = _most(remote) if length is None else length
    seen = _Seen(remote, length)
    while chunk := _read(remote, answer, min(CHUNK, most - seen.count + 1)):
        seen.take(chunk)
        if seen.count > most:
            raise FetchError(f"{remote.name}: more than {most:,} bytes; refused")
        file.write(chunk)
        if progress is not None:
            progress(remote.name, seen.count, length)
    if length is not None and seen.count < length:
        raise Unreachable(
            f"{remote.name}: the server stopped after {seen.count:,} of {length:,} bytes; "
            "nothing is kept, try again"
        )
    seen.check()

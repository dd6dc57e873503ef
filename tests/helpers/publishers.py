"""A stand-in of those who publish weights, on this machine: honest, or not."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".pt", ".onnx")
"""files whose SHA-256 is stated"""


def empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have caches in a folder that is also the current one, and forbid no connection."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HF_HOME", "TORCH_HOME", "ROBUSTKIT_CACHE"):
        monkeypatch.setenv(variable, str(folder / variable))
    monkeypatch.chdir(folder)


class Small(nn.Module):
    """As the zoo's networks: normalises by constants that its file lacks."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.register_buffer("mu", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x):
        return self.conv((x - self.mu) / self.sigma).mean((2, 3))


class Publisher:
    """Answers by path, and keeps a list of what it was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer with these bytes; headers with underscores for hyphens."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            said = {"Content_Length": str(len(body)), **headers}
            for name, value in said.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer

    def redirect(self, path: str, target: str) -> None:
        """Lead elsewhere."""
        self.serve(path, b"", 302, Location=target)

    def repository(
        self, name: str, files: dict[str, bytes], commit: str = COMMIT, **changed: dict
    ) -> None:
        """A repository as Hugging Face lists and serves it; what is stated of a file may be changed."""
        siblings = [listed(file, body) | changed.get(file, {}) for file, body in files.items()]
        listing = json.dumps({"sha": commit, "siblings": siblings}).encode()
        self.serve(f"/api/models/{name}/revision/main?blobs=true", listing)
        self.serve(f"/api/models/{name}/revision/{commit}?blobs=true", listing)
        for file, body in files.items():
            self.serve(f"/{name}/resolve/{commit}/{file}", body)


def listed(name: str, body: bytes) -> dict:
    """A file as it is listed."""
    found = {
        "rfilename": name,
        "size": len(body),
        "blobId": sha1(b"blob %d\0" % len(body) + body).hexdigest(),
    }
    if name.endswith(LARGE):
        found["lfs"] = {"sha256": sha256(body).hexdigest(), "size": len(body)}
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@contextmanager
def publishing() -> Iterator[Publisher]:
    """A publisher that answers as long as it is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.asked.append(self.path)
            if (answer := publisher.answers.get(self.path)) is None:
                self.send_error(404)
            else:
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that has heard enough goes
    publisher = Publisher(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield publisher
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

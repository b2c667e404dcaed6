"""Downloads from servers that never answer end as soon as somebody asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..conftest import ROOT

TIMM = "timm/resnet18.a1_in1k"


class Handler(BaseHTTPRequestHandler):
    """Answers as Hugging Face does, up to the place where the server stalls."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.answer()

    def answer(self) -> None:
        at = self.server.stalls_at
        place = self.path.split("/")[1]
        if at == "unavailable" and "/resolve/" in self.path:
            self.server.reached.set()
            self.reply(503)
        elif place == at or (at == self.command and "/resolve/" in self.path):
            if self.command == "GET" and place != "xet":
                self.reply(200, Content_Length="100000000")
                self.wfile.write(bytes(1000))
            self.server.reached.set()
            self.server.over.wait(60)
        elif "/resolve/" in self.path:
            of_xet = {"X_Xet_Hash": "b" * 64, "X_Xet_Refresh_Route": self.server.url("token")}
            self.reply(
                200,
                Content_Length="100000000",
                ETag='"abc"',
                X_Repo_Commit="0" * 40,
                X_Linked_Etag=f'"{"a" * 64}"',
                X_Linked_Size="100000000",
                **(of_xet if at == "xet" else {}),
            )
        elif place == "token":
            expiration = str(int(time.time()) + 3600)
            of_xet = {"X_Xet_Access_Token": "t", "X_Xet_Token_Expiration": expiration}
            self.reply(200, Content_Length="0", X_Xet_Cas_Url=self.server.url("xet"), **of_xet)
        else:
            self.reply(404, Content_Length="0")

    def reply(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items() or {"Content_Length": "0"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stalls_at: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stalls_at = stalls_at
        self.reached, self.over = threading.Event(), threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up."""


@contextlib.contextmanager
def stalling(place: str) -> Iterator[Server]:
    server = Server(place)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


#: The command without the import of TensorFlow, which fetching needs none of.
PROGRAM = """
import sys, types
from keras_resnet import cli
def run(**_):
    from keras_resnet.weights import fetch, registry
    entry = registry.find_weights(sys.argv[1])
    if len(sys.argv) > 2:
        import pathlib
        fetch.download(registry.Download(sys.argv[2]), pathlib.Path("file"))
    else:
        fetch.fetch(entry)
cli.app = run
cli.main()
"""


@pytest.mark.parametrize(
    ("place", "url"),
    [
        pytest.param("HEAD", False, id="the hub says nothing"),
        pytest.param("GET", False, id="the hub stops"),
        pytest.param("unavailable", False, id="the client tries again"),
        pytest.param("xet", False, id="in Rust"),
        pytest.param("file", True, id="another server stops"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_download_that_does_not_move_ends_at_once(
    place: str, url: bool, number: signal.Signals, tmp_path: Path
) -> None:
    if number == signal.SIGINT and place not in ("xet", "file"):
        pytest.skip("the same way")
    with stalling(place) as server:
        more = [server.url("file")] if url else []
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, TIMM, *more],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HF_ENDPOINT": server.url("").rstrip("/"),
                "HF_HOME": str(tmp_path / "hub"),
                "KERAS_RESNET_HOME": str(tmp_path / "home"),
            },
        )
        try:
            assert server.reached.wait(60)
            time.sleep(0.5)
            asked = time.monotonic()
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
            took = time.monotonic() - asked
        finally:
            process.kill()
    assert process.returncode == 128 + number, errors
    assert "keras-resnet: Interrupted. Earlier results are untouched.\n" in errors
    # The client's words about its attempts are not shown.
    assert "Retrying" not in errors
    assert "Traceback" not in errors
    assert took < 5, f"{took:.1f} s"
    assert not (tmp_path / "file").exists()


def test_offline_mode_is_for_every_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_resnet.weights.fetch import DownloadError, fetch
    from keras_resnet.weights.registry import find_weights

    monkeypatch.setenv("KERAS_RESNET_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for tag in ("akamaster/resnet20.cifar10", TIMM):
        with pytest.raises(DownloadError, match="offline mode is enabled: HF_HUB_OFFLINE is set"):
            fetch(find_weights(tag))

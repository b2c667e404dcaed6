"""Servers that send too much, too slowly, or something else than they say."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from keras_resnet.weights import download as downloading
from keras_resnet.weights.download import DownloadError, download
from keras_resnet.weights.registry import Download

#: What a server would send to whoever takes it; more than sockets hold back.
ENDLESS = 64 * 2**20


class Handler(BaseHTTPRequestHandler):
    """The first folder of the path says how to answer."""

    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            getattr(self, f"answer_{self.path.split('/')[1]}")()

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_for_ever(self) -> None:
        while self.server.sent < ENDLESS:
            self.server.sent += self.wfile.write(bytes(2**16))

    def trickle(self) -> None:
        while not self.server.over.wait(0.02):
            self.wfile.write(b"x")

    def answer_endless(self) -> None:
        self.begin()
        self.send_for_ever()

    def answer_lying(self) -> None:
        self.begin(Content_Length=str(10**15))
        self.send_for_ever()

    def answer_longer(self) -> None:
        self.begin(Content_Length="5")
        self.send_for_ever()

    def answer_redirect(self) -> None:
        self.begin(302, Location="/small")
        self.send_for_ever()

    def answer_small(self) -> None:
        self.begin()
        self.wfile.write(b"small")

    def answer_gzip(self) -> None:
        self.begin(Content_Encoding="gzip")
        self.wfile.write(gzip.compress(bytes(ENDLESS)))

    def answer_slow(self) -> None:
        self.begin()
        self.trickle()

    def answer_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.trickle()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    sent = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()

    def url(self, way: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{way}/file"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.over.set()
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("way", "known", "reason"),
    [
        ("endless", 300_000, "at least 3[0-9]{5} bytes instead of 300000"),
        ("endless", None, "at least 4[0-9]{5} bytes instead of at most 400000"),
        ("lying", None, "1000000000000000 bytes instead of at most 400000"),
        ("lying", 300_000, "1000000000000000 bytes instead of 300000"),
        ("longer", 300_000, "5 bytes instead of 300000"),
        ("gzip", None, "at least [0-9]+ bytes instead of at most 400000"),
    ],
)
def test_nothing_is_read_beyond_the_size(
    server: Server, tmp_path: Path, way: str, known: int | None, reason: str
) -> None:
    file = Download(server.url(way), bytes=known)
    with pytest.raises(DownloadError, match=f"Received: a file with {reason}. Put the file at"):
        download(file, tmp_path / "file.bin", largest=400_000)
    assert server.sent < ENDLESS / 2
    assert not list(tmp_path.iterdir())


def test_contents_of_redirects_are_not_read(server: Server, tmp_path: Path) -> None:
    download(Download(server.url("redirect")), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"small"
    assert server.sent < ENDLESS / 2


@pytest.mark.parametrize("way", ["slow", "headers"])
def test_bytes_now_and_then_are_not_enough(
    server: Server, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single byte comes late, so that without an overall limit this would go on for ever."""
    monkeypatch.setattr(downloading, "_PATIENCE", -29)
    with pytest.raises(DownloadError, match="0 bytes, and then less than 10 kB/s"):
        download(Download(server.url(way)), tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())

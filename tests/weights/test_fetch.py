"""Downloads, against a real server on this machine that misbehaves as its paths say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from keras_resnet.weights import download as downloading
from keras_resnet.weights.fetch import DownloadError, cache_path, fetch, home
from keras_resnet.weights.registry import Download, WeightsEntry, find_weights

from ..conftest import Run

BODY = np.random.default_rng(0).bytes(300_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """The first folder of the path says how to answer."""

    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        way = self.path.split("/")[1]
        self.server.count[self.path] += 1
        getattr(self, f"answer_{way}")(self.server.count[self.path])

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self, number: int) -> None:
        self.send(self.server.body)

    def answer_unsized(self, number: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def answer_truncated(self, number: int) -> None:
        self.send(BODY[:100_000], Content_Length=str(len(BODY)))

    def answer_broken_once(self, number: int) -> None:
        self.send(BODY[:100_000] if number == 1 else BODY, Content_Length=str(len(BODY)))

    def answer_corrupt(self, number: int) -> None:
        self.send(BODY[:1000] + bytes([BODY[1000] ^ 1]) + BODY[1001:])

    def answer_missing(self, number: int) -> None:
        self.send(b"", 404)

    def answer_forbidden(self, number: int) -> None:
        self.send(b"", 403)

    def answer_busy_once(self, number: int) -> None:
        self.send(*((b"", 503) if number == 1 else (BODY, 200)))

    def answer_busy(self, number: int) -> None:
        self.send(b"", 503)

    def answer_redirect(self, number: int) -> None:
        self.send(b"", 302, Location=self.server.redirect or self.path)

    def answer_held(self, number: int) -> None:
        """Half of the body, and the rest when the test says so."""
        self.send(BODY[:100_000], Content_Length=str(len(BODY)))
        self.server.reached.set()
        self.server.release.wait(30)
        self.wfile.write(BODY[100_000:])

    def hub_headers(self) -> dict[str, str]:
        etag = hashlib.sha256(self.server.body).hexdigest()
        return {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40}

    def do_HEAD(self) -> None:
        """What the hub's client asks first."""
        status = 200 if self.path.startswith("/timm/resnet18.") else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.body)))
        for name, value in self.hub_headers().items():
            self.send_header(name, value)
        self.end_headers()

    def answer_timm(self, number: int) -> None:
        self.send(self.server.body, **self.hub_headers())


class Server(ThreadingHTTPServer):
    """Counts its requests by path."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.count: Counter[str] = Counter()
        self.body, self.redirect = BODY, ""
        self.reached, self.release = threading.Event(), threading.Event()
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what many of these tests are about."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.release.set()
        serving.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_RESNET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def entry(server: Server) -> WeightsEntry:
    """A row like torchvision's, whose file this server has."""
    file = Download(server.url("good/net-12345678.pth"), sha256_prefix=SHA256[:8])
    return dataclasses.replace(find_weights("torchvision/resnet18.IMAGENET1K_V1"), download=file)


def with_download(entry: WeightsEntry, url: str, **known: str) -> WeightsEntry:
    return dataclasses.replace(entry, download=Download(url, **known))  # type: ignore[arg-type]


def download(url: str, destination: Path, *, known: Any = {}, **settings: Any) -> None:  # noqa: B006
    downloading.download(Download(url, **known), destination, **settings)


def names(directory: Path) -> list[str]:
    """Files and directories, but for locks."""
    return sorted(path.name for path in directory.iterdir() if path.suffix != ".lock")


def test_good_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    for way in ("good", "unsized"):
        destination = tmp_path / way / "deep" / "file.bin"
        download(
            server.url(f"{way}/file"),
            destination,
            known={"sha256": SHA256, "md5": MD5, "bytes": len(BODY)},
        )
        assert destination.read_bytes() == BODY
        assert [path.name for path in destination.parent.iterdir()] == ["file.bin"]
    # Its reader's rights are those of any new file, not those of a temporary one.
    (tmp_path / "plain").touch()
    assert destination.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("way", "reason", "requests"),
    [
        ("truncated", r"the connection broke \(IncompleteRead\(100000 bytes read, 200000 more", 2),
        ("busy", "503 Service Unavailable", 2),
        ("held", "no byte for 0.2 s", 2),
        ("missing", "404 Not Found: the server has no such file", 1),
        ("forbidden", "403 Forbidden: the server denies access", 1),
        ("corrupt", f"a file with the sha256 [0-9a-f]{{64}} instead of {SHA256}", 1),
        ("redirect", "more than 30 redirects", 31),
    ],
)
def test_bad_answers_leave_what_is_there_alone(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    reason: str,
    requests: int,
) -> None:
    destination = tmp_path / "file.bin"
    destination.write_text("old")
    url = server.url(f"{way}/file")
    monkeypatch.setenv("KERAS_RESNET_TIMEOUT", "0.2")
    with pytest.raises(DownloadError) as caught:
        download(url, destination, known={"sha256": SHA256}, attempts=2, pause=0.01)
    assert re.fullmatch(
        rf"Expected to download {re.escape(url)}\. Received: {reason}.*\. "
        rf"Put the file at {re.escape(str(destination))} by hand",
        str(caught.value),
    )
    assert re.match(reason, caught.value.reason)
    assert server.count[f"/{way}/file"] == requests
    assert names(tmp_path) == ["file.bin"]
    assert destination.read_text() == "old"


@pytest.mark.parametrize("way", ["busy_once", "broken_once"])
def test_passing_trouble_is_tried_again(
    server: Server, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    download(server.url(f"{way}/file"), tmp_path / "file.bin", title="This", pause=0.2)
    assert time.monotonic() - start >= 0.2
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.count[f"/{way}/file"] == 2
    assert re.search("^This: .*(503|broke).*. Trying again$", capsys.readouterr().err, re.M)


def test_unreachable_server_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no connection \(.*refused.*\). Put the file at "):
        download("http://127.0.0.1:9/file", tmp_path / "file.bin", attempts=1)
    with pytest.raises(DownloadError, match="'no address' contains invalid"):
        download("no address", tmp_path / "file.bin")


@pytest.mark.parametrize(
    ("known", "wrong"),
    [
        ({"sha256": "0" * 64}, f"the sha256 {SHA256} instead of 000"),
        ({"sha256_prefix": "01234567"}, f"the sha256 {SHA256} instead of 01234567"),
        ({"md5": "0" * 32}, f"the md5 {MD5} instead of 000"),
        ({"bytes": 5}, "300000 bytes instead of 5"),
        ({"sha256": SHA256, "sha256_prefix": "01234567"}, "instead of 01234567"),
    ],
)
def test_each_known_fact_is_checked(
    server: Server, tmp_path: Path, known: dict[str, object], wrong: str
) -> None:
    with pytest.raises(DownloadError, match=f"Received: a file with .*{wrong}"):
        download(server.url("good/file"), tmp_path / "file.bin", known=known)
    assert names(tmp_path) == []


def test_hashes_may_be_written_in_capitals(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    download(
        server.url("good/file"), destination, known={"sha256": SHA256.upper(), "md5": MD5.upper()}
    )
    assert destination.exists()


@pytest.fixture
def secure_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One with https, whose certificate is trusted."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Server() as serving:
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
        serving.scheme = "https"
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_redirects_are_followed_unless_they_leave_https(
    server: Server, secure_server: Server, tmp_path: Path
) -> None:
    destination = tmp_path / "file.bin"
    server.redirect = "/good/elsewhere"
    download(server.url("redirect/file"), destination, known={"sha256": SHA256})
    server.redirect = secure_server.url("good/elsewhere")
    download(server.url("redirect/file"), destination, known={"sha256": SHA256})
    assert secure_server.count["/good/elsewhere"] == 1
    secure_server.redirect = server.url("good/insecure")
    with pytest.raises(DownloadError, match=r"a redirect from https to http \(http://127.*insec"):
        download(secure_server.url("redirect/file"), destination, known={"sha256": SHA256})
    assert server.count["/good/insecure"] == 0
    assert destination.read_bytes() == BODY


def test_certificate_that_nobody_vouches_for_is_refused_at_once(
    secure_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(DownloadError, match="certificate verify failed"):
        download(secure_server.url("good/file"), tmp_path / "file.bin", pause=0.01)
    assert "Trying again" not in capsys.readouterr().err
    assert secure_server.count.total() == 0


def test_progress_goes_to_standard_error(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    server.body = BODY * 10
    download(server.url("good/file"), tmp_path / "file.bin", title="This [one]")
    lines = capsys.readouterr()
    assert lines.out == ""
    shares = re.findall(r"^Downloading This \[one\]: (\d\.\d) of 3\.0 MB$", lines.err, re.M)
    assert len(shares) == len(lines.err.splitlines()) == 5
    assert shares == sorted(shares)
    assert shares[-1] == "3.0"
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    download(server.url("good/file"), tmp_path / "file.bin", title="This [one]")
    bar = capsys.readouterr()
    assert bar.out == ""
    assert "Downloading This [one] " in bar.err
    assert "3.0/3.0 MB" in bar.err


def test_timeout_comes_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_RESNET_TIMEOUT", "0.1")
    with pytest.raises(DownloadError, match="no byte for 0.1 s"):
        download(server.url("held/file"), tmp_path / "file.bin", attempts=1)
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("KERAS_RESNET_TIMEOUT", wrong)
        with pytest.raises(ValueError, match=f"KERAS_RESNET_TIMEOUT.*Received: '{wrong}'"):
            download(server.url("good/file"), tmp_path / "file.bin")
    assert server.count["/good/file"] == 0


def test_cache_lies_where_the_environment_says(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = find_weights("keras/resnet50.imagenet")
    folder = own_home / "weights" / "keras" / "resnet50.imagenet"
    name = "resnet50_weights_tf_dim_ordering_tf_kernels"
    assert cache_path(row) == folder / f"{name}.h5"
    assert cache_path(row, without_top=True) == folder / f"{name}_notop.h5"
    timm = find_weights("timm/resnet50.a1_in1k")
    hub = own_home / "weights" / "timm" / "resnet50.a1_in1k" / "model.safetensors"
    assert cache_path(timm) == cache_path(timm, without_top=True) == hub
    monkeypatch.delenv("KERAS_RESNET_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home() == tmp_path / "cache" / "keras_resnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "keras_resnet"


def test_file_is_downloaded_once(server: Server, entry: WeightsEntry, own_home: Path) -> None:
    path = fetch(entry)
    assert path == own_home / "weights" / entry.tag / "net-12345678.pth"
    assert path.read_bytes() == BODY
    assert names(path.parent) == [path.name]
    assert fetch(entry) == path
    assert server.count["/good/net-12345678.pth"] == 1


def test_file_without_classifier_is_another_one(server: Server, entry: WeightsEntry) -> None:
    both = dataclasses.replace(entry, download_without_top=Download(server.url("good/notop.h5")))
    assert fetch(both, without_top=True).name == "notop.h5"
    assert fetch(both).name == fetch(entry, without_top=True).name == "net-12345678.pth"


def test_damaged_file_is_replaced_with_a_warning(server: Server, entry: WeightsEntry) -> None:
    path = fetch(entry)
    path.write_bytes(BODY[:-1])
    with pytest.warns(UserWarning, match=f"{path} has the sha256 .* instead of {SHA256}: it is da"):
        assert fetch(entry) == path
    assert path.read_bytes() == BODY
    assert server.count["/good/net-12345678.pth"] == 2


def test_damaged_file_stays_until_there_is_a_better_one(
    server: Server, entry: WeightsEntry
) -> None:
    missing = with_download(entry, server.url("missing/net.pth"), md5=MD5)
    path = cache_path(missing)
    path.parent.mkdir(parents=True)
    path.write_text("damaged")
    with pytest.warns(UserWarning, match="has the md5"), pytest.raises(DownloadError, match="404"):
        fetch(missing)
    assert path.read_text() == "damaged"


def test_hash_of_the_first_download_is_kept_and_checked(
    server: Server, entry: WeightsEntry, own_home: Path
) -> None:
    unknown = with_download(entry, server.url("good/net.pth"))
    path = fetch(unknown)
    record = own_home / "sha256.json"
    assert json.loads(record.read_text()) == {unknown.download.location: SHA256}
    path.write_bytes(BODY[:-1])
    with pytest.warns(UserWarning, match=f"instead of {SHA256}"):
        fetch(unknown)
    assert path.read_bytes() == BODY
    # Another content at that address is refused, until it is accepted by hand.
    path.unlink()
    server.body = BODY[::-1]
    with pytest.raises(DownloadError, match=f"If its publisher .*, delete its line in {record}$"):
        fetch(unknown)
    assert not path.exists()
    record.write_text("{}")
    assert fetch(unknown).read_bytes() == server.body
    # Other files' hashes stay.
    fetch(with_download(entry, server.url("good/other.pth")))
    assert len(json.loads(record.read_text())) == 2
    # A hash that the publisher tells is not kept.
    fetch(
        with_download(
            entry, server.url("good/known.pth"), sha256=hashlib.sha256(server.body).hexdigest()
        )
    )
    assert len(json.loads(record.read_text())) == 2


def test_damaged_record_is_named(entry: WeightsEntry, own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "sha256.json").write_text("{")
    with pytest.raises(ValueError, match=r"as JSON, in .*sha256.json. Received: .*Delete the file"):
        fetch(entry)


def test_hashes_of_downloads_at_the_same_time_are_all_kept(
    server: Server, entry: WeightsEntry, own_home: Path
) -> None:
    rows = [with_download(entry, server.url(f"good/net{number}.pth")) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, rows))
    record = json.loads((own_home / "sha256.json").read_text())
    assert record == {row.download.location: SHA256 for row in rows}


def test_offline_is_one_sentence_that_tells_what_to_do(entry: WeightsEntry, own_home: Path) -> None:
    offline = with_download(entry, "http://127.0.0.1:9/net.pth", sha256=SHA256)
    path = cache_path(offline)
    with pytest.raises(DownloadError) as caught:
        fetch(offline)
    assert re.fullmatch(
        f"Expected to get the weights 'torchvision/resnet18.IMAGENET1K_V1' from "
        rf"http://127.0.0.1:9/net.pth. Received: no connection \(.*refused\). Put the file at "
        f"{path} by hand, or give the path of a copy as `weights=PATH`",
        str(caught.value),
    )
    assert isinstance(caught.value, OSError)
    # And that works, without a request.
    path.write_bytes(BODY)
    assert fetch(offline) == path
    assert not (own_home / "sha256.json").exists()


def test_directory_that_cannot_be_written_to_is_named(
    entry: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_RESNET_HOME", str(tmp_path / "file"))
    with pytest.raises(
        DownloadError, match=r"written to. Received: .*Set KERAS_RESNET_HOME .*net-12345678.pth as"
    ):
        fetch(entry)


PROGRAM = """
import dataclasses, sys
from keras_resnet.weights.fetch import fetch
from keras_resnet.weights.registry import Download, find_weights
entry = find_weights("torchvision/resnet18.IMAGENET1K_V1")
url, sha256 = sys.argv[1:]
print(fetch(dataclasses.replace(entry, download=Download(url, sha256=sha256))))
"""


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, url, SHA256]
    pipes = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipes, stderr=pipes, text=True)


def test_second_process_waits_for_the_first(server: Server) -> None:
    url = server.url("held/net.pth")
    first = start(url)
    assert server.reached.wait(20)
    second = start(url)
    assert second.stderr is not None
    assert second.stderr.readline().startswith(
        f"torchvision/resnet18.IMAGENET1K_V1: waiting for process {first.pid} on "
    )
    server.release.set()
    paths = {process.communicate(timeout=20)[0].strip() for process in (first, second)}
    assert (first.returncode, second.returncode) == (0, 0)
    assert Path(paths.pop()).read_bytes() == BODY
    assert not paths
    assert server.count["/held/net.pth"] == 1


def test_without_locks_nothing_breaks(
    server: Server, entry: WeightsEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise NotImplementedError("no locks on this disk")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    server.body = BODY * 20
    known = {"sha256": hashlib.sha256(server.body).hexdigest()}
    row = with_download(entry, server.url("good/net.pth"), **known)
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch, [row] * 4))
    assert [path.read_bytes() == server.body for path in paths] == [True]
    assert names(paths.pop().parent) == ["net.pth"]


def test_killed_download_leaves_no_file_and_the_next_one_succeeds(
    server: Server, entry: WeightsEntry, own_home: Path
) -> None:
    process = start(server.url("held/net.pth"))
    assert server.reached.wait(20)
    row = with_download(entry, server.url("held/net.pth"), sha256=SHA256)
    path = cache_path(row)
    until = time.monotonic() + 10
    while not any(part.stat().st_size for part in path.parent.glob(".partial-*/net.pth")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not path.exists()
    server.release.set()
    assert fetch(row).read_bytes() == BODY
    assert server.count["/held/net.pth"] == 2


HUB_PROGRAM = """
import pathlib, sys, warnings
from keras_resnet.weights.fetch import fetch
from keras_resnet.weights.registry import find_weights
warnings.simplefilter("error" if "strict" in sys.argv else "default")
try:
    print(fetch(find_weights(sys.argv[1])))
except OSError as error:
    print(type(error).__name__, error)
"""
TIMM = "timm/resnet18.a1_in1k"


def test_hugging_face_has_its_own_cache_and_settings(
    server: Server, own_home: Path, tmp_path: Path, run_new_python: Run
) -> None:
    settings = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": server.url("").rstrip("/"),
        "HF_HUB_DISABLE_XET": "1",
    }
    first = run_new_python(HUB_PROGRAM, TIMM, "strict", **settings)
    path = Path(first.stdout.strip())
    assert tmp_path / "hub" in path.parents, first.stderr
    assert path.read_bytes() == BODY
    assert f"Downloading {TIMM} from Hugging Face\n" in first.stderr
    record = {f"hf://{TIMM}/model.safetensors": SHA256}
    assert json.loads((own_home / "sha256.json").read_text()) == record
    requests = server.count.total()
    # What is there needs no network any more.
    offline = run_new_python(HUB_PROGRAM, TIMM, "strict", **settings, HF_HUB_OFFLINE="1")
    assert Path(offline.stdout.strip()) == path, offline.stderr
    assert (offline.stderr, server.count.total()) == ("", requests)
    # A damaged one is replaced.
    path.resolve().write_bytes(BODY[:-1])
    again = run_new_python(HUB_PROGRAM, TIMM, **settings)
    assert path.read_bytes() == BODY, again.stderr
    assert f"{path} has the sha256" in again.stderr
    # One that was put there by hand goes first.
    by_hand = own_home / "weights" / TIMM / "model.safetensors"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(BODY)
    assert run_new_python(HUB_PROGRAM, TIMM, "strict", **settings).stdout.strip() == str(by_hand)


@pytest.mark.parametrize(
    ("tag", "reason", "settings"),
    [
        ("timm/resnet34.a1_in1k", "404 Not Found", {}),
        (TIMM, ".*offline mode is enabled.*", {"HF_HUB_OFFLINE": "1"}),
    ],
)
def test_hugging_face_out_of_reach_is_the_same_sentence(
    server: Server,
    own_home: Path,
    tmp_path: Path,
    run_new_python: Run,
    tag: str,
    reason: str,
    settings: dict[str, str],
) -> None:
    settings = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": server.url("").rstrip("/"),
        "HF_HUB_DISABLE_XET": "1",
        **settings,
    }
    done = run_new_python(HUB_PROGRAM, tag, **settings)
    path = own_home / "weights" / tag / "model.safetensors"
    assert re.fullmatch(
        f"DownloadError Expected to get the weights '{tag}' from hf://{tag}/model.safetensors. "
        f"Received: {reason}. Put the file at {path} by hand, or give the path of a copy as "
        "`weights=PATH`\n",
        done.stdout,
    ), done.stdout + done.stderr

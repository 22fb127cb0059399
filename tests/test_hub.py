"""The hub: what is whole on the disk needs no network, and each of its faults has a sentence of its own, in time.

A server on this machine plays the hub. Its library reads its settings once, so that every case runs in a process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from segzero_ros.models import hub
from segzero_ros.models.checkpoints import EMBEDDED
from tests import tiny_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).resolve().parent.parent


class Hub:
    """Repositories by name; a repository's first part says how the server behaves for it."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.over = threading.Event()
        hub_ = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub_.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        parts = request.path.split("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        name = "/".join(parts[2:4] if api else parts[:2])
        kind = name.split("/")[0]
        if kind in FAULTS and (api or kind == "full"):
            FAULTS[kind](self, request)
        elif name not in self.files:
            send(request, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif api and "tree" in parts:
            send(request, 200, [entry(n, data) for n, data in self.files[name].items()])
        elif api:
            if parts[4:] == ["revision", "main"] or not parts[4:]:
                send(request, 200, {"id": name, "sha": COMMIT, "tags": ["license:apache-2.0"], "siblings": []})
            else:
                send(request, 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            self.send_file(request, self.files[name]["/".join(parts[4:])])

    def send_file(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        start = int((request.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.send_header("ETag", f'"{digest(data)}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data[start:])


def send(request: BaseHTTPRequestHandler, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(code)
    for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(data)


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": digest(data)}


def never(server: Hub, request: BaseHTTPRequestHandler) -> None:
    server.over.wait(60)


FAULTS: dict[str, Any] = {
    "gated": lambda s, r: send(r, 403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"}),
    "unknown": lambda s, r: send(r, 404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"}),
    "private": lambda s, r: send(r, 401, {"error": "Invalid username or password."}),
    "forbidden": lambda s, r: send(r, 403, {"error": "no"}),
    "limited": lambda s, r: send(r, 429, {"error": "slow down"}),
    "broken": lambda s, r: send(r, 500, {"error": "fault"}),
    "portal": lambda s, r: send(r, 200, b"<html>Sign in to the WiFi</html>", {"Content-Type": "text/html"}),
    "never": never,
}
SENTENCES = {
    "gated": "accept its licence",
    "unknown": "no such repository",
    "private": "HF_TOKEN",
    "forbidden": "forbids it",
    "limited": "limits the rate",
    "broken": "a fault of its own",
    "portal": "a sign-in?",
    "never": "",
}
LOAD = """
import sys
from segzero_ros.core.contract import SegzeroError
from segzero_ros.models import checkpoints, hub
hub.STALL = 8.0
for name in sys.argv[1:]:
    try:
        print(name, checkpoints.resolve(name, "reasoner"))
    except SegzeroError as error:
        print(name, error.status.value, error.message)
"""
NO_NETWORK = """
import socket
def none(*_, **__):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = none
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_reasoner(tmp_path_factory.mktemp("reasoner"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def run(code: str, *arguments: object, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "PROXY" not in k.upper()}
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean | settings, timeout=120)


def in_cache(home: Path, name: str, folder: Path) -> Path:
    """As the library lays it out, with a snapshot of files."""
    repository = home / "hub" / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(folder, repository / "snapshots" / COMMIT))


@pytest.mark.parametrize("proxy", ["", "socks5://127.0.0.1:9"])
def test_what_is_whole_on_the_disk_asks_nobody(tmp_path: Path, reasoner: Path, proxy: str) -> None:
    snapshot = in_cache(tmp_path, "lab/reasoner", reasoner)
    settings = {"ALL_PROXY": proxy, "HTTPS_PROXY": proxy} if proxy else {}
    shown = run(NO_NETWORK + LOAD, "lab/reasoner", home=tmp_path, **settings)
    assert shown.stdout.strip() == f"lab/reasoner {snapshot}", shown.stderr


def test_what_is_half_on_the_disk_is_fetched(tmp_path: Path, reasoner: Path, server: Hub) -> None:
    server.files["lab/reasoner"] = files_of(reasoner)
    (in_cache(tmp_path, "lab/reasoner", reasoner) / "model.safetensors").unlink()
    shown = run(LOAD, "lab/reasoner", home=tmp_path, HF_ENDPOINT=server.url)
    folder = Path(shown.stdout.split()[-1])
    assert files_of(folder) == files_of(reasoner), shown.stdout + shown.stderr


def test_of_a_repository_with_a_subfolder_nothing_else_is_fetched(tmp_path: Path, reasoner: Path, server: Hub) -> None:
    inner = {f"merged/{name}": data for name, data in files_of(reasoner).items()}
    server.files["lab/several"] = inner | {"other/model.safetensors": b"large", "config.json": b"{}"}
    code = LOAD.replace('"reasoner")', '"reasoner", subfolder="merged")')
    shown = run(code, "lab/several", home=tmp_path, HF_ENDPOINT=server.url)
    folder = Path(shown.stdout.split()[-1])
    assert files_of(folder) == files_of(reasoner), shown.stdout + shown.stderr
    assert sorted(p.name for p in folder.parent.iterdir()) == ["merged"]


def test_half_a_checkpoint_without_network_says_both(tmp_path: Path, reasoner: Path) -> None:
    (in_cache(tmp_path, "lab/reasoner", reasoner) / "model.safetensors").unlink()
    code = LOAD.replace('"reasoner")', '"reasoner", offline=True)')
    said = run(NO_NETWORK + code, "lab/reasoner", home=tmp_path).stdout
    assert (
        "offline is set" in said and "not whole" in said and "model.safetensors" in said
    ) or "no .safetensors" in said


def test_each_fault_of_the_hub_is_a_sentence_of_its_own_in_time(tmp_path: Path, server: Hub) -> None:
    lines: dict[str, str] = {}
    answering = [f"{kind}/model" for kind in SENTENCES if kind != "never"]
    # Seconds without an answer: few only where none comes.
    for names, seconds in ((answering, "60"), (["never/model"], "3")):
        times = {"HF_HUB_ETAG_TIMEOUT": seconds, "HF_HUB_DOWNLOAD_TIMEOUT": seconds}
        shown = run(LOAD, *names, home=tmp_path, HF_ENDPOINT=server.url, HF_TOKEN="hf_secret", **times)
        lines |= dict(line.split(" ", 1) for line in shown.stdout.splitlines())
        assert "hf_secret" not in shown.stdout + shown.stderr and "Traceback" not in shown.stderr
    for kind, words in SENTENCES.items():
        said = lines[f"{kind}/model"]
        assert said.startswith("NOT_READY") and words in said and len(said) < 500, said


def test_a_hub_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    shown = run(LOAD, "lab/model", home=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in shown.stdout, shown.stdout


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path, reasoner: Path, server: Hub) -> None:
    server.files["lab/reasoner"] = files_of(reasoner)
    (tmp_path / "home").write_text("a file, and no folder")
    shown = run(LOAD, "lab/reasoner", home=tmp_path / "home", HF_ENDPOINT=server.url)
    assert shown.stdout.startswith("lab/reasoner NOT_READY") and "Traceback" not in shown.stderr


@pytest.mark.parametrize("revision", ["../../etc", "a\nb", "x" * 400, ".."])
def test_a_revision_cannot_lead_out_of_the_cache(revision: str) -> None:
    with pytest.raises(hub.SegzeroError, match="no revision"):
        hub.cached("lab/model", revision)


@pytest.mark.parametrize("name", ["lab/model", "Qwen/Qwen2.5-VL-7B-Instruct", "a/b_c.d-e"])
def test_names_of_repositories_are_known(name: str) -> None:
    assert hub.is_name(name) and not hub.is_name(f"./{name}") and not hub.is_name(f"{name}/more")


class TestFetch:
    @pytest.fixture
    def profile(self, tmp_path: Path) -> Path:
        path = tmp_path / "mine.yaml"
        text = (ROOT / "segzero_ros" / "profiles" / "demo.yaml").read_text()
        text = text.replace("reasoner: embedded", "reasoner: lab/reasoner")
        path.write_text(text.replace("segmenter: embedded", "segmenter: lab/segmenter"))
        return path

    def test_a_copy_answers_on_a_robot_without_network(
        self, tmp_path: Path, reasoner: Path, server: Hub, profile: Path
    ) -> None:
        server.files = {"lab/reasoner": files_of(reasoner), "lab/segmenter": files_of(EMBEDDED / "segmenter")}
        command = "import sys; from segzero_ros.cli import main; sys.exit(main(sys.argv[1:]))"
        target = tmp_path / "robot"
        fetch = ("fetch", profile, "--to", target)
        shown = run(command, *fetch, home=tmp_path / "home", HF_ENDPOINT=server.url)
        assert shown.returncode == 0, shown.stderr
        assert "licence apache-2.0" in shown.stdout and "MB  model.safetensors" in shown.stdout
        assert f"reasoner:={target}/reasoner" in shown.stdout
        assert not any(p.is_symlink() for p in target.rglob("*"))
        load = (
            NO_NETWORK
            + "import sys\nfrom segzero_ros.pipeline import Pipeline\nfrom segzero_ros.profiles import load_profile\n"
            + "demo, (reasoner, segmenter) = load_profile('demo'), sys.argv[1:]\n"
            + "print(Pipeline.load(demo, reasoner=reasoner, segmenter=segmenter, offline=True).model)"
        )
        answer = run(load, target / "reasoner", target / "segmenter", home=tmp_path / "nothing")
        assert answer.returncode == 0 and str(target) in answer.stdout, answer.stderr
        again = run(command, *fetch, home=tmp_path / "home", HF_ENDPOINT=server.url)
        assert again.returncode == 1 and "is there already" in again.stderr

    def test_sizes_come_first_and_a_dry_run_fetches_nothing(
        self, tmp_path: Path, reasoner: Path, server: Hub, profile: Path
    ) -> None:
        server.files = {"lab/reasoner": files_of(reasoner), "lab/segmenter": files_of(EMBEDDED / "segmenter")}
        command = "import sys; from segzero_ros.cli import main; sys.exit(main(sys.argv[1:]))"
        shown = run(command, "fetch", profile, "--dry-run", home=tmp_path / "home", HF_ENDPOINT=server.url)
        assert shown.returncode == 0 and "GB in 5 files" in shown.stdout, shown.stderr
        assert not list((tmp_path / "home").rglob("*.safetensors"))

    def test_a_repository_of_pickles_is_refused_before_anything_comes(
        self, tmp_path: Path, server: Hub, profile: Path
    ) -> None:
        server.files = {"lab/reasoner": {"config.json": b"{}", "pytorch_model.bin": b"x"}}
        command = "import sys; from segzero_ros.cli import main; sys.exit(main(sys.argv[1:]))"
        shown = run(command, "fetch", profile, home=tmp_path / "home", HF_ENDPOINT=server.url)
        assert shown.returncode == 1 and "no .safetensors" in shown.stderr

    def test_an_embedded_profile_is_here_already(self, tmp_path: Path) -> None:
        command = NO_NETWORK + "import sys; from segzero_ros.cli import main; sys.exit(main(sys.argv[1:]))"
        shown = run(command, "fetch", "demo", home=tmp_path)
        assert shown.returncode == 0 and shown.stdout.count("on this disk") == 2

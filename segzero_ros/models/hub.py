"""The hub: what its cache holds, found without a question to the network, and what is fetched, within a time limit."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.text import one_line
from segzero_ros.models.hub_cache import cache_folder

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
STALL = 45.0  # seconds without a byte after which a fetch is given up; the library tries five times within them
TICK = 0.1  # seconds between two looks at the flag
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[\w][\w.+/-]{0,200}")


def is_name(text: str) -> bool:
    """Whether it can be a repository's name, ORG/NAME."""
    return _NAME.fullmatch(text) is not None and ".." not in text and "--" not in text


def cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the cache, whole or not; None where there is none."""
    folder = cache_folder() / ("models--" + name.replace("/", "--"))
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise _refused(f"{one_line(wanted, 80)!r} is no revision of {name}")
    try:
        if not re.fullmatch(r"[0-9a-f]{40}", wanted):
            wanted = (folder / "refs" / wanted).read_text(encoding="utf-8").strip()
        snapshot = folder / "snapshots" / wanted
        return snapshot if re.fullmatch(r"\w+", wanted) and snapshot.is_dir() else None
    except (OSError, UnicodeDecodeError):
        return None


def revision_of(folder: Path, requested: str | None) -> str:
    """The commit that the hub's cache holds in this folder, else what was asked for."""
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots":
            return part.name
    return requested or ""


def fetch(
    name: str,
    revision: str | None = None,
    *,
    subfolder: str | None = None,
    on_progress: Callable[[int, int], None] = lambda received, whole: None,
    cancel: Cancel | None = None,
) -> Path:
    """The snapshot of a repository in the cache, resumed where an earlier fetch ended. Raises SegzeroError.

    subfolder: the only part of it that is fetched.

    on_progress(bytes received, bytes in all) is called as they come. NOT_READY with a sentence, CANCELLED.
    """
    progress = _Progress(on_progress, cancel)
    return Path(_watched(name, lambda: _download(name, revision, subfolder, progress), progress))


def sizes(name: str, revision: str | None = None, subfolder: str | None = None) -> dict[str, tuple[int, bool]]:
    """Of each file that would be fetched: its bytes, and whether it is here already. Raises SegzeroError."""

    def ask() -> Any:
        from huggingface_hub import snapshot_download

        return snapshot_download(name, revision=revision, allow_patterns=_patterns(subfolder), dry_run=True)

    return {f.filename: (f.file_size or 0, f.is_cached) for f in _watched(name, ask, _Progress())}


def licence_of(name: str) -> str:
    """As the repository states it; "" where it does not. Raises SegzeroError."""

    def ask() -> Any:
        from huggingface_hub import HfApi

        return HfApi().model_info(name).tags or []

    return ", ".join(t.removeprefix("license:") for t in _watched(name, ask, _Progress()) if t.startswith("license:"))


def _watched(name: str, call: Callable[[], Any], progress: _Progress) -> Any:
    """What the call returns, on a thread of its own: the library has calls without a time limit."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work, name="segzero-hub", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(TICK)
        if progress.cancel is not None and progress.cancel.is_set():
            progress.over = True
            raise SegzeroError(Status.CANCELLED, "the fetch was cancelled")
        if thread.is_alive() and time.monotonic() - progress.moved > STALL:
            progress.over = True
            raise _refused(f"could not get {name}: {_endpoint()} has sent nothing for {STALL:.0f} s; the network?")
    if isinstance(found[0], BaseException):
        raise _refused(f"could not get {name}: {explain(found[0])}") from found[0]
    return found[0]


def _patterns(subfolder: str | None) -> list[str]:
    return [f"{subfolder.strip('/')}/{pattern}" for pattern in FILES] if subfolder else FILES


class _Progress:
    """What has come of all files together."""

    def __init__(
        self, tell: Callable[[int, int], None] = lambda received, whole: None, cancel: Cancel | None = None
    ) -> None:
        self.tell, self.cancel = tell, cancel
        self.moved = time.monotonic()  # when the last byte came
        self.over = False  # nobody waits any more

    def count(self, received: float, whole: float | None) -> None:
        self.moved = time.monotonic()
        if self.over or (self.cancel is not None and self.cancel.is_set()):
            raise SegzeroError(Status.CANCELLED, "the fetch was cancelled")
        if whole:
            self.tell(int(received), int(whole))


def _download(name: str, revision: str | None, subfolder: str | None, progress: _Progress) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        received = 0.0  # tqdm.n is not updated when the bar is disabled

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more | {"disable": True})
            self.in_bytes = more.get("unit") == "B"
            self.whole = more.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            whole = self.total if self.total is not None else self.whole
            progress.count(self.received, whole if self.in_bytes else None)
            return super().update(n)

    return str(snapshot_download(name, revision=revision, allow_patterns=_patterns(subfolder), tqdm_class=Bar))


def explain(error: BaseException) -> str:
    """What is wrong and what to do, in one sentence."""
    causes = list(_chain(error))
    names = {type(e).__name__ for e in causes}
    text = " ".join(str(e) for e in causes)
    status = next((c for e in causes if (c := getattr(getattr(e, "response", None), "status_code", None))), 0)
    where = _endpoint()
    for known, sentence in (
        (lambda: "GatedRepoError" in names, f"it is gated: accept its licence at {where} and set HF_TOKEN"),
        (lambda: "RevisionNotFoundError" in names, "it has no such revision"),
        (lambda: "EntryNotFoundError" in names or "RemoteEntryNotFoundError" in names, "a file of it is not there"),
        (lambda: status == 401, f"{where} does not know the token, or the name; check both (HF_TOKEN)"),
        (lambda: "RepositoryNotFoundError" in names, f"{where} has no such repository, or HF_TOKEN may not see it"),
        (lambda: "OfflineModeIsEnabled" in names, "HF_HUB_OFFLINE is set, and it is not whole on this disk"),
        (lambda: status == 403, f"{where} forbids it; does HF_TOKEN have the right?"),
        (lambda: status == 404, f"{where} has no such repository"),
        (lambda: status == 429, f"{where} limits the rate; wait some minutes, or set HF_TOKEN"),
        (lambda: status >= 500, f"{where} has a fault of its own ({status}); try again later"),
        (lambda: "No space left" in text, f"the disk of {cache_folder()} is full"),
        (
            lambda: "Permission denied" in text or "Read-only" in text,
            f"{cache_folder()} cannot be written; set HF_HOME",
        ),
        (lambda: "socksio" in text or "SOCKS" in text, "the proxy is a SOCKS one: pip install 'httpx[socks]'"),
        (lambda: "ProxyError" in names, "the proxy refuses; check HTTPS_PROXY"),
        (
            lambda: "CERTIFICATE" in text.upper() or "SSL" in text,
            f"{where} is not trusted (TLS): check clock, proxy",
        ),
        (lambda: "Timeout" in " ".join(names), f"{where} did not answer in time"),
        (
            lambda: "Name or service not known" in text or "Temporary failure in name" in text,
            f"{where} is not found: DNS",
        ),
        (lambda: "ConnectError" in names or "Connection refused" in text, f"{where} cannot be reached: no network?"),
        (lambda: "JSONDecodeError" in names or "Expecting value" in text, f"{where} answers with a page: a sign-in?"),
        (lambda: "onsistency check failed" in text, "what came has another size or digest than the hub says; again"),
    ):
        if known():
            return sentence
    return one_line(f"{type(error).__name__}: {error}", 200)


def _endpoint() -> str:
    return one_line(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", 100)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)

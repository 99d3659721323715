"""Weights of the Hugging Face hub: found in its cache on this machine, or downloaded into it.

    models--owner--name/
      refs/main                commit of the last finished download
      snapshots/<commit>/…     files under their names: links to blobs
      blobs/<hash>             their content

The hub's own programs share this cache. Nothing here needs a network or a package, except a
download: it runs in a child process (`main`), the only one that imports huggingface_hub to
use the network, so that a cancel ends it at once. `refs/main`, by which weights are found,
is written last, when every file has the hash that the hub announced.
"""

import hashlib
import json
import os
import queue
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.cards.encoder_card import (
    CONFIGURATION,
    INDEX,
    PICKLES,
    WEIGHTS,
    weight_files,
)
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.files import replacing
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.encoders.hub_errors import (
    Connection,
    cut,
    disk_refusal,
    lacks_files,
    not_a_hub,
    refusal,
    slow,
)

ENDPOINT = "https://huggingface.co"

SHARDS = "model-*-of-*.safetensors"
"""Names of the files that the hub's programs spread large weights over."""

DEFAULT_TIMEOUT_S = 30.0
"""Seconds of silence after which a download fails, unless `HF_HUB_DOWNLOAD_TIMEOUT` is set."""

START_TIMEOUT_S = 120.0
"""Seconds that the child process may take to load huggingface_hub."""

POLL_S = 0.1
"""Seconds between two looks for a cancel."""

CHUNK_BYTES = 1 << 18

SPARE_BYTES = 64 << 20
"""Bytes that must stay free on the disk."""

_LIBRARY: dict[str, Any] = {"library_name": "spatial-ar-anomaly", "library_version": __version__}
"""Begins the user agent of all requests."""

_PREFIX = "models--"
_TRUE = ("1", "ON", "YES", "TRUE")

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.encoders.hub import main; main()"
)


# The cache on this machine


def is_hub_id(source: str) -> bool:
    """Return whether this may be a hub id, `owner/name`; a path that exists wins over one."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not looks_like_path(source)


def looks_like_path(source: str) -> bool:
    """Return whether this can only be a path: the hub is not asked for a missing file."""
    return (
        os.path.isabs(source)
        or PureWindowsPath(source).is_absolute()
        or "\\" in source
        or source.startswith((".", "~"))
        or source.lower().endswith((".safetensors", *PICKLES))
        or source.count("/") > 1
    )


def cache_folder() -> Path:
    """Return the folder of the hub's cache (`HF_HUB_CACHE`), which need not exist."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return Path(os.path.expandvars(folder)).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expandvars(caches)).expanduser() / "huggingface" / "hub"


def repository_folder(hub_id: str) -> Path:
    """Return the folder of the cache for a hub id, which need not exist."""
    return cache_folder() / (_PREFIX + hub_id.replace("/", "--"))


def cached_folder(hub_id: str) -> Path | None:
    """Return the folder with the whole weights and their configuration, if the cache has them.

    Its name is the commit.
    """
    repository = repository_folder(hub_id)
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    if not re.fullmatch(r"[\w.-]+", commit) or commit in (".", ".."):
        return None
    folder = repository / "snapshots" / commit
    return folder if weight_files(folder) is not None else None


def cached_bytes(hub_id: str) -> int:
    """Return the bytes of the disk that the cache gives to a hub id."""
    return sum(
        one.stat().st_size
        for one in repository_folder(hub_id).rglob("*")
        if one.is_file() and not one.is_symlink()
    )


def cached_ids() -> Iterator[str]:
    """Yield the hub ids that the cache has a folder of, whatever they are and how complete."""
    try:
        folders = sorted(cache_folder().iterdir())
    except OSError:
        return
    for folder in folders:
        if folder.name.startswith(_PREFIX) and folder.is_dir():
            yield folder.name.removeprefix(_PREFIX).replace("--", "/", 1)


def publish_commit(hub_id: str, commit: str) -> None:
    """Write `refs/main`, by which the files of a commit are found; raises `OSError`."""
    reference = repository_folder(hub_id) / "refs" / "main"
    reference.parent.mkdir(parents=True, exist_ok=True)
    with replacing(reference) as new:
        new.write_text(commit, encoding="utf-8")


@contextmanager
def lock_repository(hub_id: str) -> Iterator[None]:
    """Allow one download or removal at a time of what the cache has of a hub id.

    Raises:
        EncoderError: `encoder-busy` while another program holds the lock.
        OSError: Where the cache folder cannot be written.
    """
    from filelock import FileLock, Timeout

    locks = _locks_folder(hub_id)
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / "spatial-ar.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EncoderError(
            "encoder-busy",
            f"'{hub_id}' is being downloaded by another window or program.",
            "Wait until that has ended.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _locks_folder(hub_id: str) -> Path:
    """The folder in which huggingface_hub locks every blob that it receives."""
    return cache_folder() / ".locks" / repository_folder(hub_id).name


def _remove_leftovers(hub_id: str) -> None:
    """Remove what killed downloads left, but for blobs that another program receives now."""
    from filelock import FileLock, Timeout

    for left in (repository_folder(hub_id) / "blobs").glob("*.incomplete"):
        lock = _locks_folder(hub_id) / f"{left.name.partition('.')[0]}.lock"
        with suppress(OSError, Timeout), FileLock(lock, timeout=0):
            left.unlink()


# The download, seen from the process that asks for it


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the hub announces it."""

    name: str
    size: int
    digest: str
    """SHA-256 of the content (files in Git LFS), or the SHA-1 that git gives it."""


def download(hub_id: str, report: Reporter, token: str | None = None) -> Path:
    """Download weights and their configuration, and verify them.

    Args:
        hub_id: `owner/name`.
        report: Receives the stage `download` in bytes; its cancel kills the child process.
        token: Logs in to the hub; without one the hub's own login is used, if there is one. It
            is passed through a pipe and held in memory only.

    Returns:
        The folder of the hub's cache that holds the files; its name is the commit.

    Raises:
        EncoderError: `encoder-gated`, `-token`, `-missing`, `-offline`, `-proxy`, `-tls`, `-slow`,
            `-cut`, `-too-many`, `-hub-down`, `-not-a-hub`, `-unverified`, `-wrong-bytes`,
            `-disk-full`, `-cache`, `-busy`, or `package-missing`.
        Cancelled: Through `report`.
    """
    connection = connect(hub_id)
    login = _login(token, connection)
    report.stage("download", 1, 1)
    report.check_cancelled()
    try:
        with lock_repository(hub_id):
            _remove_leftovers(hub_id)
            try:
                commit, files = _run_child(connection, login, report)
            finally:
                _remove_leftovers(hub_id)
            folder = repository_folder(hub_id) / "snapshots" / commit
            for file in files:
                _verify(folder / file.name, file, report)
            if weight_files(folder) is None:
                raise lacks_files(hub_id)
            publish_commit(hub_id, commit)
    except OSError as error:
        raise disk_refusal(error, hub_id) from error
    return folder


def connect(hub_id: str) -> Connection:
    """Read from the environment how the hub is reached; uses no network.

    Raises:
        EncoderError: `encoder-offline`, `-not-a-hub`, `-proxy` or `-tls` for a variable that
            forbids the hub or holds what cannot be used.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").strip().upper() in _TRUE:
            raise EncoderError(
                "encoder-offline",
                f"Nothing is downloaded: {name} forbids this program to use the hub.",
                f"Unset {name}, or copy the weights from another machine and give the local "
                "folder or .safetensors file.",
            )
    root = _endpoint()
    try:
        parts = urlsplit(root)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise EncoderError(
            "encoder-not-a-hub",
            "HF_ENDPOINT must be an address such as https://hub.example.org; it is not.",
            "Correct it, or unset it to use the hub itself.",
        )
    variable, certificates = _certificates()
    try:
        ssl.create_default_context(cafile=certificates)
    except OSError as error:
        raise EncoderError(
            "encoder-tls",
            f"{variable} must name a .pem file of certificates; the file cannot be read as one.",
            "Have your IT give the certificates as PEM (text with BEGIN CERTIFICATE), or unset "
            f"{variable}.",
        ) from error
    return Connection(
        hub_id=hub_id,
        page=f"{root}/{hub_id}",
        host=str(parts.hostname),
        proxy=_proxy(parts.scheme, str(parts.hostname)),
        timeout_s=_timeout_s(),
    )


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _certificates() -> tuple[str, str | None]:
    """The variable that names a file of certificates, and the file."""
    # Slicer's launcher sets SSL_CERT_FILE itself, so a user's own comes by the other one.
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if file := os.environ.get(variable):
            return variable, file
    return "", None


def _timeout_s() -> float:
    try:
        seconds = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", ""))
    except ValueError:
        return DEFAULT_TIMEOUT_S
    return seconds if 0 < seconds < 86400 else DEFAULT_TIMEOUT_S


def _proxy(scheme: str, host: str) -> str | None:
    """`host:port` of the proxy on the way to a host, without the password it may hold."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    try:
        where = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        return f"{where.hostname}:{where.port}" if where.port else str(where.hostname)
    except ValueError:
        # Not chained: the text of this error may hold a part of a password.
        raise EncoderError(
            "encoder-proxy",
            f"The proxy that is set for {scheme}:// is not an address.",
            "Check HTTPS_PROXY (http://user:password@host:port; signs such as / # @ in a password "
            "as %2F %23 %40).",
        ) from None


def _login(token: str | None, connection: Connection) -> str | bool | None:
    """The login as huggingface_hub takes it: a token, None for its own login, False for none."""
    encrypted = connection.page.startswith("https:")
    local = connection.host in ("localhost", "127.0.0.1", "::1")
    if token is None:
        return None if encrypted or local else False
    token = token.strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
        raise EncoderError(
            "encoder-token",
            "A token is one word of letters, digits and signs (hf_…); the one given is not.",
            "Copy it again from your account's page at the hub (Settings, Access Tokens).",
        )
    if not encrypted and not local:
        raise EncoderError(
            "encoder-token",
            f"The token is not sent to '{connection.host}': its address has no encryption.",
            "Use an address that begins with https:// in HF_ENDPOINT.",
        )
    return token


def _run_child(
    connection: Connection, login: str | bool | None, report: Reporter
) -> tuple[str, list[RemoteFile]]:
    """Let a child process download; returns the commit and its files. Killed at a cancel."""
    timeout = str(max(1, round(connection.timeout_s)))
    environment = os.environ | {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # proxies know less of its protocol than of HTTPS
        "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": timeout,
        "HF_HUB_ETAG_TIMEOUT": timeout,
    }
    _, certificates = _certificates()
    if certificates:
        environment["SSL_CERT_FILE"] = certificates
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, str(Path(__file__).resolve().parents[3])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # its warnings name signed addresses
        env=environment,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines: queue.Queue[bytes] = queue.Queue()

        def read(stream: Any = process.stdout) -> None:
            for line in stream:
                lines.put(line)
            lines.put(b"")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            with suppress(BrokenPipeError):
                request = {"hub_id": connection.hub_id, "login": login}
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            return _follow(lines, connection, report)
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()
            reader.join()


def _follow(
    lines: "queue.Queue[bytes]", connection: Connection, report: Reporter
) -> tuple[str, list[RemoteFile]]:
    """Report the progress that the child process tells, until its result."""
    limit_s, silent_s = START_TIMEOUT_S, 0.0
    while True:
        report.check_cancelled()
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            silent_s += POLL_S
            if silent_s > limit_s:
                raise slow(connection) from None
            continue
        if not line:
            raise cut(connection)
        limit_s, silent_s = connection.timeout_s, 0.0
        event = json.loads(line)
        if "done" in event:
            report.progress(event["done"], event["total"], "byte")
        elif "code" in event:
            raise EncoderError(event["code"], event["text"], event["hint"], **event["facts"])
        elif "commit" in event:
            return event["commit"], [RemoteFile(**file) for file in event["files"]]


def _verify(path: Path, file: RemoteFile, report: Reporter) -> None:
    """Compare a file's hash with the announced one; removes a file that differs."""
    found = (
        hashlib.sha256()
        if len(file.digest) == 64
        else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    )
    with path.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            found.update(chunk)
            report.check_cancelled()
    if found.hexdigest() == file.digest:
        return
    if path.is_symlink():
        (path.parent / os.readlink(path)).unlink(missing_ok=True)
    path.unlink()
    raise EncoderError(
        "encoder-wrong-bytes",
        f"What arrived as {file.name} is not what the hub announced: its hash is "
        f"{found.hexdigest()[:12]}…, not {file.digest[:12]}…. It was removed.",
        "Try again. If it happens again, something between this machine and the hub (a proxy, a "
        "mirror) changes what it passes on.",
    )


# The child process


def main() -> None:
    """Download what the first line of standard input asks for, until that input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _say(_outcome(connect(request["hub_id"]), request["login"]))


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing more is written: this returns when the parent is gone
    os._exit(1)


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _outcome(connection: Connection, login: str | bool | None) -> dict[str, Any]:
    try:
        import truststore

        # Certificates of the system, as an inspecting proxy of a hospital needs them.
        truststore.inject_into_ssl()
        return fetch(connection, login, lambda done, total: _say({"done": done, "total": total}))
    except ImportError as error:
        package = error.name or "huggingface_hub"
        failure = EncoderError(
            "package-missing",
            f"A download needs the Python package '{package}'; it is not installed, or cannot be "
            "loaded.",
            'Install it: pip install "spatial-ar-anomaly[torch]", or huggingface_hub and '
            "truststore alone.",
        )
    except Exception as error:
        failure = refusal(error, connection)
    return {
        "code": failure.code,
        "text": failure.message,
        "hint": failure.hint,
        "facts": failure.facts,
    }


def fetch(
    connection: Connection, login: str | bool | None, tell: Callable[[int, int], None]
) -> dict[str, Any]:
    """Download the files of the newest commit into the hub's cache, without `refs/main`.

    Args:
        connection: The weights and the way to the hub.
        login: As huggingface_hub takes `token`.
        tell: Called with the bytes that have arrived and those of all files.

    Returns:
        `commit` and `files` (see `RemoteFile`).

    Raises:
        EncoderError: Where weights are missing, unverifiable or too large for the disk.
        Exception: Those of huggingface_hub and its HTTP client.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    # 10 MB by default: seconds between two steps of the progress on a slow line.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    try:
        api = HfApi(endpoint=_endpoint(), token=login, **_LIBRARY)
        info = api.model_info(
            connection.hub_id, revision="main", files_metadata=True, timeout=connection.timeout_s
        )
        commit, siblings = str(info.sha), list(info.siblings or ())
    except (TypeError, KeyError, AttributeError) as error:  # JSON of something else
        raise not_a_hub(connection) from error
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise not_a_hub(connection)
    files = _choose_files(siblings, connection)
    folder = repository_folder(connection.hub_id) / "snapshots" / commit
    missing = sum(file.size for file in files if not (folder / file.name).is_file())
    total = sum(file.size for file in files)
    _check_space(missing)
    tell(total - missing, total)

    class ByteCounter(tqdm):
        """Tells bytes instead of drawing a bar."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts_bytes:
                tell(min(total, total - missing + int(self.n)), total)

    snapshot_download(
        connection.hub_id,
        revision=commit,
        allow_patterns=[file.name for file in files],
        token=login,
        endpoint=_endpoint(),
        cache_dir=cache_folder(),
        etag_timeout=connection.timeout_s,
        max_workers=1,
        tqdm_class=ByteCounter,
        **_LIBRARY,
    )
    return {"commit": commit, "files": [vars(file) for file in files]}


def _choose_files(siblings: list[Any], connection: Connection) -> list[RemoteFile]:
    """Choose the configuration and the weights among the files of a repository.

    Pickles are never among them.
    """
    known = {one.rfilename: one for one in siblings}
    names = [CONFIGURATION, WEIGHTS]
    if WEIGHTS not in known:
        names = [CONFIGURATION, INDEX, *(name for name in known if fnmatch(name, SHARDS))]
    if any(name not in known for name in names):
        raise lacks_files(connection.hub_id)
    files = []
    for name in names:
        one = known[name]
        digest = str(one.lfs.sha256 if one.lfs else one.blob_id)
        if one.size is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
            raise EncoderError(
                "encoder-unverified",
                f"'{connection.host}' does not announce size and hash of {name}: what arrives "
                "could not be verified, so nothing is downloaded.",
                "Use the hub itself (unset HF_ENDPOINT), or get the files in another way and "
                "give the local folder.",
            )
        files.append(RemoteFile(name=name, size=one.size, digest=digest))
    return files


def _check_space(needed: int) -> None:
    place = cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if needed and free < needed + SPARE_BYTES:
        raise EncoderError(
            "encoder-disk-full",
            f"The download needs {(needed + SPARE_BYTES) / 1e6:,.0f} MB free in the hub's cache "
            f"folder; there are {free / 1e6:,.0f} MB.",
            "Free disk space, or set HF_HOME to a folder on another disk.",
        )

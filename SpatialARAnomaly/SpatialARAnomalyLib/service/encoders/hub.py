"""Weights of the Hugging Face hub: found in its cache on this machine, or downloaded into it.

    models--owner--name/
      refs/main                commit of the last finished download
      snapshots/<commit>/…     files under their names: links to blobs
      blobs/<hash>             their content

The hub's own programs share this cache. Looking into it needs neither a network nor a
package. A download runs in a child process (`main`), the only one that imports
huggingface_hub; a cancel or a long silence kills it. It writes `refs/main`, by which weights
are found, when every file has the hash that the hub announced.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.cards.encoder_card import (
    CONFIGURATION,
    INDEX,
    PICKLES,
    WEIGHTS,
    weight_files,
)
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.files import file_sha256, replacing
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.encoders.dinov3_license import require_accepted
from SpatialARAnomalyLib.service.encoders.hub_errors import (
    LACKS_FILES,
    Connection,
    disk_error,
    host_of,
    hub_error,
    translate,
)
from SpatialARAnomalyLib.service.user_folder import home_folder, xdg_folder

DEFAULT_TIMEOUT_S = 30
"""Seconds of silence after which a download fails, unless `HF_HUB_DOWNLOAD_TIMEOUT` is set."""

START_TIMEOUT_S = 120
"""Seconds that the child process may take to load huggingface_hub."""

HEARTBEAT_S = 0.1
"""Seconds between two messages of the child process; at each the parent looks for a cancel."""

CHUNK_BYTES = 1 << 18
"""Bytes between two steps of the progress; huggingface_hub's own 10 MB take long on slow lines."""

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.encoders.hub import main; main()"
)


# The cache on this machine


def is_hub_id(source: str) -> bool:
    """Return whether this may be a hub id, `owner/name`; a path that exists wins over one."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source)
    return bool(named) and not source.lower().endswith((".safetensors", *PICKLES))


def cache_folder() -> Path:
    """Return the folder of the hub's cache (`HF_HUB_CACHE`), which need not exist."""
    get = os.environ.get
    folder = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE")
    if not folder:
        home = get("HF_HOME") or xdg_folder("XDG_CACHE_HOME", ".cache") / "huggingface"
        folder = f"{home}/hub"
    named = os.path.expandvars(folder)
    return home_folder() / named[2:] if named.startswith("~/") else Path(named)


def repository_folder(hub_id: str) -> Path:
    """Return the folder of the cache for a hub id, which need not exist."""
    return cache_folder() / ("models--" + hub_id.replace("/", "--"))


def cached_folder(hub_id: str) -> Path | None:
    """Return the folder with weights and configuration if the cache has all of their files.

    Its name is the commit.
    """
    repository = repository_folder(hub_id)
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    if not re.fullmatch(r"\w[\w.-]*", commit):
        return None
    folder = repository / "snapshots" / commit
    return folder if weight_files(folder) is not None else None


def cached_bytes(hub_id: str) -> int:
    """Return the bytes of the disk that the cache gives to a hub id."""
    files = repository_folder(hub_id).rglob("*")
    return sum(one.stat().st_size for one in files if one.is_file() and not one.is_symlink())


def cached_ids() -> list[str]:
    """Return the hub ids that have a folder in the cache, complete or not."""
    try:
        names = sorted(folder.name for folder in cache_folder().iterdir())
    except OSError:
        return []
    parts = [name.split("--", 2) for name in names]
    return [f"{part[1]}/{part[2]}" for part in parts if part[0] == "models" and len(part) == 3]


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

    _locks_folder(hub_id).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(_locks_folder(hub_id) / "spatial-ar.lock", timeout=0):
            yield
    except Timeout as error:
        raise EncoderError(
            "encoder-busy", f"'{hub_id}' is being downloaded by another window or program."
        ) from error


def _locks_folder(hub_id: str) -> Path:
    """Return the folder in which huggingface_hub locks every blob that it receives."""
    return cache_folder() / ".locks" / repository_folder(hub_id).name


def _remove_leftovers(hub_id: str) -> None:
    """Remove what killed downloads left, except blobs that another program receives now."""
    from filelock import FileLock, Timeout

    for left in (repository_folder(hub_id) / "blobs").glob("*.incomplete"):
        lock = _locks_folder(hub_id) / f"{left.name.partition('.')[0]}.lock"
        with suppress(OSError, Timeout), FileLock(lock, timeout=0):
            left.unlink()


# The download, in the process of the caller


def download(hub_id: str, report: Reporter, token: str | None = None) -> Path:
    """Download weights and their configuration, after the license was accepted; verify them.

    Args:
        hub_id: `owner/name`.
        report: Receives the stage `download` in bytes; its cancel kills the child process.
        token: Logs in to the hub; by default the hub's own login is used, if there is one. It
            is passed through a pipe and held in memory only.

    Returns:
        The folder of the hub's cache that holds the files; its name is the commit.

    Raises:
        EncoderError: `encoder-gated`, `-token`, `-missing`, `-offline`, `-proxy`, `-tls`, `-slow`,
            `-cut`, `-too-many`, `-hub-down`, `-not-a-hub`, `-unverified`, `-wrong-bytes`,
            `-disk-full`, `-cache`, `-busy`, `package-missing` or `license-not-accepted`.
        Cancelled: Through `report`.
    """
    require_accepted()
    connection = connect(hub_id)
    login = _login(token, connection)
    report.stage("download", 1, 1)
    report.check_cancelled()
    try:
        with lock_repository(hub_id):
            try:
                commit = _run_child(connection, login, report)
            finally:
                _remove_leftovers(hub_id)
    except OSError as error:
        raise disk_error(error) from error
    return repository_folder(hub_id) / "snapshots" / commit


def connect(hub_id: str) -> Connection:
    """Return how the hub is reached, as the environment says; uses no network."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    proxies = urllib.request.getproxies()
    proxy = proxies.get(endpoint.partition(":")[0]) or proxies.get("all")
    if proxy and urllib.request.proxy_bypass(host_of(endpoint)):
        proxy = None
    timeout = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    return Connection(
        hub_id=hub_id,
        endpoint=endpoint,
        proxy=host_of(proxy) if proxy else None,
        timeout_s=(int(timeout) if timeout.isdecimal() else 0) or DEFAULT_TIMEOUT_S,
    )


def _login(token: str | None, connection: Connection) -> str | bool | None:
    """Return the login as huggingface_hub takes it: a token, None for its own, False for none."""
    local = re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", connection.host)
    safe = bool(local) or connection.endpoint.startswith("https:")
    if token is None:
        return None if safe else False
    if not re.fullmatch(r"[\x21-\x7e]+", token := token.strip()):
        raise EncoderError(
            "encoder-token", "A token is one word of letters, digits and signs, such as hf_…."
        )
    if not safe:
        raise EncoderError(
            "encoder-token",
            f"The token is not sent to '{connection.host}': its address has no encryption.",
        )
    return token


def _run_child(connection: Connection, login: str | bool | None, report: Reporter) -> str:
    """Let a child process download; return the commit. The process ends with this call."""
    timeout = str(connection.timeout_s)
    environment = os.environ | {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # fewer proxies support its protocol than HTTPS
        "HF_HUB_DISABLE_SYMLINKS_WARNING": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": timeout,
        "HF_HUB_ETAG_TIMEOUT": timeout,
    }
    if certificates := _certificates():
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
        try:
            with suppress(OSError):
                request = {"connection": dataclasses.asdict(connection), "login": login}
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.close()
            return _follow(process.stdout, connection, report)
        finally:
            process.kill()


def _certificates() -> str | None:
    """Return the file of certificates that a variable names, which must be readable."""
    # Slicer's launcher sets SSL_CERT_FILE itself, so the user's own comes by the first one.
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if file := os.environ.get(variable):
            try:
                ssl.create_default_context(cafile=file)
            except OSError as error:
                raise EncoderError(
                    "encoder-tls",
                    f"{variable} must name a .pem file of certificates (text with BEGIN "
                    "CERTIFICATE); the file cannot be read as one.",
                ) from error
            return file
    return None


def _follow(lines: Iterable[bytes], connection: Connection, report: Reporter) -> str:
    """Report the progress of the child process until its result, the commit."""
    # Counted in heartbeats, so that a paused or sleeping machine is not silence.
    silent_s, limit_s = 0.0, START_TIMEOUT_S
    for line in lines:
        report.check_cancelled()
        event = json.loads(line)
        if "commit" in event:
            return str(event["commit"])
        if "code" in event:
            raise EncoderError(event["code"], event["message"], **event["facts"])
        if "done" in event:
            report.progress(event["done"], event["total"], "byte")
            silent_s, limit_s = 0.0, connection.timeout_s
        elif (silent_s := silent_s + HEARTBEAT_S) > limit_s:
            raise hub_error("encoder-slow", connection)
    raise hub_error("encoder-cut", connection)


# The child process


def main() -> None:
    """Download what the first line of standard input names; write events to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    sys.stdout = sys.stderr  # huggingface_hub prints, and standard output is for events
    request = json.loads(sys.stdin.buffer.readline())
    connection = Connection(**request["connection"])
    threading.Thread(target=_beat, daemon=True).start()
    try:
        import truststore

        # Certificates of the system, as an inspecting proxy of a hospital needs them.
        truststore.inject_into_ssl()
        _send(commit=fetch(connection, request["login"], _send_progress))
    except Exception as error:
        failure = translate(error, connection)
        _send(code=failure.code, message=failure.message, facts=failure.facts)


def _send_progress(done: int, total: int) -> None:
    _send(done=done, total=total)


def _send(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")  # at once, also from two threads


def _beat() -> None:
    """Send empty events until the parent has ended, then end the process."""
    with suppress(OSError):
        while True:
            _send()
            time.sleep(HEARTBEAT_S)
    os._exit(1)


def fetch(
    connection: Connection, login: str | bool | None, on_bytes: Callable[[int, int], None]
) -> str:
    """Download, verify and publish the newest weights of a hub id; return their commit.

    Args:
        connection: The weights and the way to the hub.
        login: As huggingface_hub takes `token`.
        on_bytes: Is called with the bytes that have arrived and those of all files.

    Raises:
        EncoderError: Where weights are missing or do not have the announced hash.
        Exception: Those of huggingface_hub and its HTTP client, see `translate`.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils.tqdm import tqdm

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    api = HfApi(
        endpoint=connection.endpoint,
        token=login,
        library_name="spatial-ar-anomaly",
        library_version=__version__,
    )
    hub_id = connection.hub_id
    info = api.model_info(
        hub_id, revision="main", files_metadata=True, timeout=connection.timeout_s
    )
    commit = str(info.sha)
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise hub_error("encoder-not-a-hub", connection)
    files = _choose_files(info.siblings or [], connection)
    folder = repository_folder(hub_id) / "snapshots" / commit
    total = sum(file.size for file in files)
    here = sum(file.size for file in files if (folder / file.rfilename).is_file())
    cache_folder().mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache_folder()).free < total - here:
        raise OSError(errno.ENOSPC, f"{(total - here) / 1e6:,.0f} MB are needed")
    on_bytes(here, total)

    class ByteCounter(tqdm):
        """Reports bytes in place of drawing a bar."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts_bytes:
                on_bytes(min(total, here + int(self.n)), total)

    api.snapshot_download(
        hub_id,
        revision=commit,  # not `main`, whose reference huggingface_hub would write itself
        allow_patterns=[file.rfilename for file in files],
        cache_dir=cache_folder(),
        etag_timeout=connection.timeout_s,
        max_workers=1,
        tqdm_class=ByteCounter,
    )
    for file in files:
        _verify(folder / file.rfilename, _announced_hash(file), lambda _: on_bytes(total, total))
    if weight_files(folder) is None:
        raise hub_error("encoder-missing", connection, LACKS_FILES)
    publish_commit(hub_id, commit)
    return commit


def _choose_files(siblings: list[Any], connection: Connection) -> list[Any]:
    """Choose configuration and weights among the files of a repository, never pickles."""
    known = {one.rfilename: one for one in siblings}
    names = [CONFIGURATION, WEIGHTS]
    if WEIGHTS not in known:
        shards = [name for name in known if fnmatch(name, "model-*-of-*.safetensors")]
        names = [CONFIGURATION, INDEX, *shards]
    if any(name not in known for name in names):
        raise hub_error("encoder-missing", connection, LACKS_FILES)
    for name in names:
        announced = _announced_hash(known[name])
        if known[name].size is None or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", announced):
            raise EncoderError(
                "encoder-unverified",
                f"'{connection.host}' does not announce size and hash of {name}; what arrives "
                "could not be verified.",
            )
    return [known[name] for name in names]


def _announced_hash(file: Any) -> str:
    """Return a file's SHA-256 (in Git LFS), or else the SHA-1 that git gives it."""
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def _verify(path: Path, announced: str, on_block: Callable[[int], None]) -> None:
    """Compare a file's hash with the announced one; remove a file that differs."""
    if len(announced) == 64:
        found = file_sha256(path, on_block)
    else:
        content = path.read_bytes()
        git_object = b"blob %d\0" % len(content) + content
        found = hashlib.sha1(git_object, usedforsecurity=False).hexdigest()
    if found == announced:
        return
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise EncoderError(
        "encoder-wrong-bytes",
        f"The {path.name} that arrived differs from the one the hub announced: its hash is "
        f"{found[:12]}…, not {announced[:12]}…. It was removed.",
    )

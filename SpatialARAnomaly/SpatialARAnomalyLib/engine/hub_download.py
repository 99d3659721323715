"""Fetches weights into the hub's cache: resumable, verified, and under their names only when whole.

A file arrives as `blobs/<hash>.spatial-ar.incomplete`, which stays when the
download stops for whatever reason, and the next one goes on with it. Only what
has the hash that the hub announced gets its name; the reference to the commit,
by which the weights are found, is written last.
"""

import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .atomic_files import replacing, sync
from .errors import EncoderError
from .hub_cache import PARTIAL_SUFFIX, cached_folder, repository_folder
from .hub_client import FAILURES, HubClient, NoSuchFileError, RemoteFile, offline_setting
from .hub_lock import alone
from .hub_refusals import cut
from .progress import Reporter
from .weight_folder import CONFIGURATION, INDEX, WEIGHTS, shard_names

CHUNK_BYTES = 1 << 18

TRIES = 4
"""How often a broken connection is taken up again in one download."""

PAUSE_S = 1.0
"""Before that."""

SPARE_BYTES = 64 << 20
"""What must stay free on the disk."""


def download(hub_id: str, report: Reporter, token: str | None = None) -> Path:
    """Fetch weights and their configuration; the folder of the cache that then has them.

    `token` logs in to the hub; without one its own login is used. It is held in
    memory only.

    Raises `EncoderError`, always with what to do: `encoder-gated`, `-token`,
    `-missing`, `-offline`, `-proxy`, `-tls`, `-slow`, `-cut`, `-too-many`,
    `-hub-down`, `-not-a-hub`, `-unverified`, `-wrong-bytes`, `-disk-full`,
    `-cache`, `-busy`; and `Cancelled` through `report`.
    """
    if setting := offline_setting():
        raise EncoderError(
            "encoder-offline",
            f"Nothing is downloaded: {setting} forbids this program to use the hub.",
            f"Unset {setting}, or copy the weights from another machine and give the local "
            "folder or .safetensors file.",
        )
    hub = HubClient(hub_id, token)
    report.stage("download", 1, 1)
    report.check_cancelled()
    configuration, weights = _described(hub, CONFIGURATION), None
    with suppress(NoSuchFileError):
        weights = hub.describe(WEIGHTS, configuration.commit)
    index = _described(hub, INDEX, configuration.commit) if weights is None else None
    with _storing(hub_id), alone(hub_id):
        store = _Store(hub_id, configuration.commit)
        files = [configuration]
        if weights is not None:
            files.append(weights)
        elif index is not None:
            _Fetch(hub, store, [index], report).run()
            names = shard_names(store.blob(index))
            shards = [_described(hub, name, configuration.commit) for name in names]
            files += [index, *shards]
        _Fetch(hub, store, files, report).run()
        store.publish(files)
    folder = cached_folder(hub_id)
    if folder is None:
        raise EncoderError(
            "encoder-cache",
            f"The weights of '{hub_id}' were stored, but are not found in the hub's cache folder.",
            "Check that folder (HF_HUB_CACHE, HF_HOME), or set HF_HOME to another one.",
        )
    return folder


def _described(hub: HubClient, name: str, revision: str = "main") -> RemoteFile:
    try:
        return hub.describe(name, revision)
    except NoSuchFileError as error:
        raise EncoderError(
            "encoder-missing",
            f"The hub's '{hub.hub_id}' lacks {CONFIGURATION}, {WEIGHTS} or {INDEX}.",
            "Choose weights as transformers or timm publish them, in .safetensors files.",
        ) from error


@contextmanager
def _storing(hub_id: str) -> Iterator[None]:
    """What the disk refuses becomes an `EncoderError` that names no path."""
    try:
        yield
    except OSError as error:
        raise EncoderError(
            "encoder-cache",
            f"The weights of '{hub_id}' cannot be stored in the hub's cache folder "
            f"({error.strerror or type(error).__name__}).",
            "Make room there, or set HF_HOME to a folder that can be written.",
        ) from error


class _Store:
    """The part of the cache that belongs to one commit of one hub id."""

    def __init__(self, hub_id: str, commit: str) -> None:
        self._repository = repository_folder(hub_id)
        self._commit = commit
        (self._repository / "blobs").mkdir(parents=True, exist_ok=True)

    def blob(self, file: RemoteFile) -> Path:
        return self._repository / "blobs" / file.etag

    def partial(self, file: RemoteFile) -> Path:
        return self._repository / "blobs" / f"{file.etag}{PARTIAL_SUFFIX}"

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._repository).free

    def publish(self, files: list[RemoteFile]) -> None:
        """Give the files their names, and then the commit its own."""
        snapshot = self._repository / "snapshots" / self._commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in files:
            _link(self.blob(file), snapshot / file.name)
        reference = self._repository / "refs" / "main"
        reference.parent.mkdir(exist_ok=True)
        with replacing(reference) as new:
            new.write_text(self._commit, encoding="utf-8")


def _link(blob: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except OSError:  # Windows allows links only to some
        os.replace(blob, name)


class _Fetch:
    """Brings files into a store, one after the other."""

    def __init__(
        self, hub: HubClient, store: _Store, files: list[RemoteFile], report: Reporter
    ) -> None:
        self._hub = hub
        self._store = store
        self._files = files
        self._report = report
        self._done = 0
        self._total = sum(file.size for file in files)

    def run(self) -> None:
        """Fetch what is not there yet."""
        missing = [file for file in self._files if not self._verified(self._store.blob(file), file)]
        self._check_space(missing)
        for file in self._files:
            if file in missing:
                self._fetch(file)
            self._done += file.size
        self._report.progress(self._total, self._total, "byte")

    def _check_space(self, missing: list[RemoteFile]) -> None:
        partials = [_size(self._store.partial(file)) for file in missing]
        needed = sum(file.size for file in missing) - sum(partials) + SPARE_BYTES
        free = self._store.free_bytes()
        if missing and free < needed:
            raise EncoderError(
                "encoder-disk-full",
                f"The download needs {needed / 1e6:,.0f} MB free in the hub's cache folder; "
                f"there are {free / 1e6:,.0f} MB.",
                "Free disk space, or set HF_HOME to a folder on another disk.",
            )

    def _fetch(self, file: RemoteFile) -> None:
        partial = self._store.partial(file)
        if _size(partial) > file.size:
            partial.unlink()
        with partial.open("ab+") as target:
            digest = _Digest(file)
            target.seek(0)
            while chunk := target.read(CHUNK_BYTES):
                digest.update(chunk)
                self._report.check_cancelled()
            tries = TRIES
            while (size := target.tell()) < file.size:
                self._told(size)
                error = self._receive(file, target, digest)
                if target.tell() > size:
                    tries = TRIES  # it went on: the connection is bad, not gone
                if error is not None:
                    tries -= 1
                    if error.code != "encoder-cut" or tries == 0:
                        raise error
                    time.sleep(PAUSE_S)
                self._report.check_cancelled()
        if not digest.is_right():
            partial.unlink()
            raise EncoderError(
                "encoder-wrong-bytes",
                f"What arrived as {file.name} is not what the hub announced: its hash is "
                f"{digest.found()[:12]}…, not {file.etag[:12]}…. It was removed.",
                "Try again. If it happens again, something between this machine and the hub "
                "(a proxy, a mirror) changes what it passes on.",
            )
        sync(partial)
        os.replace(partial, self._store.blob(file))

    def _receive(
        self, file: RemoteFile, target: BinaryIO, digest: "_Digest"
    ) -> EncoderError | None:
        """Append what the hub sends; what went wrong, if it did."""
        start = target.tell()
        try:
            answer = self._hub.fetch(file, start)
        except EncoderError as error:
            return error
        with answer:
            if start and answer.status != 206:  # it does not know of parts: from the beginning
                target.seek(0)
                target.truncate()
                digest.restart()
            while target.tell() < file.size:
                try:
                    # read1: what is there, so that a slow line is seen to move, and can be left
                    chunk = answer.read1(min(CHUNK_BYTES, file.size - target.tell()))
                except ssl.SSLEOFError:
                    return cut(self._hub.asked)
                except FAILURES as error:
                    return self._hub.refused(error)
                if not chunk:
                    return cut(self._hub.asked)
                target.write(chunk)
                digest.update(chunk)
                self._told(target.tell())
                self._report.check_cancelled()
        return None

    def _told(self, of_file: int) -> None:
        self._report.progress(self._done + of_file, self._total, "byte")

    def _verified(self, blob: Path, file: RemoteFile) -> bool:
        """Whether the cache has the whole file already, from an earlier commit or program."""
        if _size(blob) != file.size:
            return False
        digest = _Digest(file)
        with blob.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                self._report.check_cancelled()
        return digest.is_right()


class _Digest:
    """The hash by which the hub names a file: SHA-256, or SHA-1 as git computes it."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.restart()

    def restart(self) -> None:
        """Forget what was hashed."""
        if len(self._file.etag) == 64:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)

    def update(self, content: bytes) -> None:
        """Add what comes next."""
        self._hash.update(content)

    def found(self) -> str:
        """The hash of what was given."""
        return self._hash.hexdigest()

    def is_right(self) -> bool:
        """Whether that is the file's."""
        return self.found() == self._file.etag


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

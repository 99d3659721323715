"""One change at a time to what the cache holds of a hub id."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import EncoderError
from .hub_cache import PARTIAL_SUFFIX, cache_folder, repository_folder


@contextmanager
def alone(hub_id: str) -> Iterator[None]:
    """Raises `EncoderError` `encoder-busy` while another program is at it, and `OSError`."""
    from filelock import FileLock, Timeout

    locks = cache_folder() / ".locks" / repository_folder(hub_id).name
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"download{PARTIAL_SUFFIX}.lock")
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

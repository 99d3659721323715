"""Makes the next items while the last ones are used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


def ahead(items: Iterable[ItemT], depth: int = 2) -> Iterator[ItemT]:
    """The items in order, up to `depth` of them made beforehand in a thread.

    For work of another device's waiting time. An error of `items` is raised here, after
    the items before it; the thread ends when this generator does.
    """
    made: queue.Queue[tuple[bool, ItemT | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: bool, value: ItemT | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                made.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = made.get()
            if not is_item:
                if value is not None:
                    raise value  # type: ignore[misc]
                return
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()

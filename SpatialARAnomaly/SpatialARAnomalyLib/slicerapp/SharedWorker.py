"""The one worker process of a Slicer: whoever needs it gets the warm one."""

import slicer

from .WorkerProcess import WorkerProcess

_worker: WorkerProcess | None = None


def sharedWorker() -> WorkerProcess:
    """The worker; its process starts with its first job."""
    global _worker
    if _worker is None:
        _worker = WorkerProcess()
        slicer.app.connect("aboutToQuit()", stopSharedWorker)
    return _worker


def stopSharedWorker() -> None:
    """End the worker, when Slicer quits or the module is unloaded."""
    global _worker
    if _worker is not None:
        slicer.app.disconnect("aboutToQuit()", stopSharedWorker)
        _worker.stop()
        _worker = None

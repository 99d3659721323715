"""A Dask cluster: workers on this or other machines, each with the model in memory.

All machines share the file system: a worker reads the scan and writes its results itself; only
the request and the outcome travel.
"""

import glob
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import start_imports
from SpatialARAnomalyLib.engine.errors import SetupError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.batch.places import (
    DEATHS,
    POLL_S,
    Outcome,
    Outcomes,
    ScanRequest,
    Work,
    died,
    do,
)
from SpatialARAnomalyLib.service.events import internal_error
from SpatialARAnomalyLib.service.jobs import JOBS

LOCAL, SLURM = "local", "slurm"
"""Schedulers that a command starts itself; anything else is the address of one that runs."""

LOOK_S = 5.0
"""Seconds between two looks how many workers there are."""

CONNECT_S = 30
"""Seconds in which a scheduler answers, also again after it was lost."""

GPU = "GPU"
"""Resource of a worker (`dask worker --resources GPU=1`); a scan takes one."""

AT_LIMIT = "worker-restart-memory"
"""Dask's topic of the workers that were ended above their memory limit."""

_ONE_AT_A_TIME = threading.Lock()
"""Held by the scan that a worker computes: models and GPU memory are for one."""


class Cluster:
    """Workers of a Dask scheduler, which is started for the batch or runs at an address."""

    def __init__(self, scheduler: str, jobs: int, worker_memory: str | None) -> None:
        self._scheduler, self._jobs, self._memory = scheduler, jobs, worker_memory

    def run(self, work: Work, requests: Iterable[ScanRequest], report: Reporter) -> Outcomes:
        """Yield every request with its outcome, as they end."""
        with self._connect() as client:
            if client.dashboard_link:
                report.notice("dashboard", f"Workers and scans: {client.dashboard_link}")
            yield from _Run(client, work, requests, report).outcomes()

    @contextmanager
    def _connect(self) -> Iterator[Client]:
        # Of the schedulers that are started here: deaths are counted by `_Run`.
        limits = {"distributed.scheduler.allowed-failures": 0}
        try:
            with dask.config.set(limits):
                if self._scheduler == LOCAL:
                    gpus = {"resources": {GPU: 1}} if _gpus() else {}
                    with (
                        LocalCluster(
                            n_workers=self._jobs,
                            threads_per_worker=1,
                            memory_limit=self._memory or "auto",
                            host="127.0.0.1",
                            dashboard_address="127.0.0.1:0",
                            **gpus,
                        ) as cluster,
                        Client(cluster) as client,
                    ):
                        yield client
                elif self._scheduler == SLURM:
                    with self._slurm() as cluster, Client(cluster) as client:
                        # Jobs that end early, by a preemption or a failure, are replaced.
                        cluster.adapt(minimum_jobs=self._jobs, maximum_jobs=self._jobs)
                        yield client
                else:
                    with Client(self._scheduler, timeout=CONNECT_S) as client:
                        yield client
        except (OSError, ValueError) as error:
            raise SetupError(
                "cluster-unreachable",
                f"The scheduler {self._scheduler!r} must answer; it does not "
                f"({' '.join(str(error).split()) or type(error).__name__}).",
            ) from None

    def _slurm(self) -> Any:
        """Return a cluster of Slurm jobs, as the site's `jobqueue.yaml` describes them."""
        from dask_jobqueue.slurm import SLURMCluster

        config = dask.config

        return SLURMCluster(
            cores=config.get("jobqueue.slurm.cores", None) or 1,
            processes=config.get("jobqueue.slurm.processes", None) or 1,
            memory=self._memory or config.get("jobqueue.slurm.memory", None) or "8GB",
        )


class _Run:
    """The scans of one batch on a cluster.

    Dask blames all scans of a worker that dies, also those that wait in it. Such scans are
    computed again at the end, one after the other, when a death can only be their own.
    """

    def __init__(
        self, client: Client, work: Work, requests: Iterable[ScanRequest], report: Reporter
    ) -> None:
        self._client, self._work, self._report = client, work, report
        self._waiting, self._again = iter(requests), list[ScanRequest]()
        self._suspects: list[ScanRequest] = []
        self._deaths: dict[str, list[str]] = {}
        """Addresses of the workers that died with a scan, by its name."""
        self._sent: dict[Future[Outcome], ScanRequest] = {}
        self._ended: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
        self._number = 0
        self._room, self._looked_s = 0, float("-inf")
        self._scheduler_id: str | None = None

    def outcomes(self) -> Outcomes:
        """Yield every request with its outcome, as they end."""
        try:
            while True:
                self._report.check_cancelled()
                self._look()
                if not self._send():
                    return
                if self._client.status in ("closing", "closed"):
                    raise SetupError(
                        "cluster-lost",
                        "The scheduler must stay reachable; it was lost and is not back.",
                    )
                try:
                    future = self._ended.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                request = self._sent.pop(future)
                outcome = self._outcome(future, request)
                if outcome is not None:
                    yield request, outcome
        finally:
            if self._client.status == "running":
                self._client.cancel(list(self._sent))

    def _look(self) -> None:
        """Count the workers from time to time; greet a scheduler that is new."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        if self._client.status != "running":
            return  # the client connects again by itself, or closes
        info = self._client.scheduler_info(n_workers=-1)
        workers = info["workers"]
        self._room = max(1, len(workers))
        self._resources = (
            {GPU: 1} if any(GPU in one["resources"] for one in workers.values()) else None
        )
        if info["id"] != self._scheduler_id:
            self._client.register_plugin(Resident(self._work.job))
            self._scheduler_id = info["id"]

    def _send(self) -> bool:
        """Send requests as far as there is room; return False if none is left or sent."""
        while len(self._sent) < self._room and self._client.status == "running":
            request = self._again.pop() if self._again else next(self._waiting, None)
            if request is None:
                if self._sent or not self._suspects:
                    return bool(self._sent)
                request = self._suspects.pop()
            self._number += 1
            future = self._client.submit(
                do_on_worker,
                self._work,
                request,
                __version__,
                key=f"{self._work.job}-{os.getpid()}-{self._number}",  # no name of a scan
                pure=False,
                resources=self._resources,
            )
            self._sent[future] = request
            future.add_done_callback(self._ended.put)
        return True

    def _outcome(self, future: "Future[Outcome]", request: ScanRequest) -> Outcome | None:
        """Return the outcome of a scan; None for one that is to be sent again."""
        if future.status == "finished":
            outcome: Outcome = future.result(timeout=CONNECT_S)
            return outcome
        if future.status == "error":
            error = future.exception(timeout=CONNECT_S)
            if isinstance(error, KilledWorker):
                deaths = self._deaths.setdefault(request.name, [])
                deaths.append(error.last_worker.address)
                if len(deaths) == DEATHS:
                    return Outcome(error=self._why_died(deaths))
                self._suspects.append(request)
                return None
            traceback.print_exception(error, file=sys.stderr)
            return Outcome(error=internal_error(error))
        self._again.append(request)
        return None

    def _why_died(self, workers: list[str]) -> SpatialARError:
        """Return the error of a scan with which these workers died."""
        ended = {event["worker"] for _, event in self._client.get_events(AT_LIMIT) or ()}
        if ended.isdisjoint(workers):
            return died()
        return SpatialARError(
            "cluster-memory",
            "A worker must stay below its memory limit; with this scan "
            f"{len(ended.intersection(workers))} were ended above it.",
        )


def do_on_worker(work: Work, request: ScanRequest, version: str) -> Outcome:
    """Do the work on a scan in a Dask worker, one at a time."""
    if version != __version__:
        error = SetupError(
            "cluster-version",
            f"All machines must run the same version; found {version} and {__version__}.",
        )
        return Outcome(error=error)
    with _ONE_AT_A_TIME:
        return do(work, request)


class Resident(WorkerPlugin):
    """Prepares every worker, also those that come later.

    It imports the job and PyTorch. Model and encoder then stay in memory from scan to scan
    (`model_cache.MODELS`).
    """

    name = "spatial-ar-anomaly"

    def __init__(self, job: str) -> None:
        self._job = job

    def setup(self, worker: Any) -> None:
        """Prepare a worker."""
        gpus = _gpus()
        if gpus and isinstance(worker.name, int):  # of a local cluster: one GPU each
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(worker.name % gpus))
        JOBS[self._job].load()
        start_imports()


def _gpus() -> int:
    """Return the number of NVIDIA GPUs of this Linux machine, without PyTorch."""
    return len(glob.glob("/dev/nvidia[0-9]*"))

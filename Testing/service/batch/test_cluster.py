"""A batch on Dask clusters: the same table and results as in this process, whatever dies."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from service.batch import odd_scans, slurm_site
from service.batch.test_batch import WAIT_S, Site, Stop, odd  # noqa: F401
from service.small_site import tree
from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.files import PARTIAL_PREFIX

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="the extra cluster"),
    # Of Dask and its clusters, which end in threads of their own.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
]

ODD = {
    "distributed.worker.preload": [odd_scans.__file__],
    "distributed.comm.timeouts.connect": WAIT_S,
    "distributed.worker.memory.terminate": False,
}


def results(site: Site) -> dict:
    """The results without the table, whose times differ, and the lock.

    A worker that repeats a scan, unknown to a new scheduler, may be killed after the batch has
    ended; what it leaves goes with the next batch.
    """
    found = tree(site.out)
    del found["status.csv"], found[".lock"]
    return {name: content for name, content in found.items() if PARTIAL_PREFIX not in name}


@pytest.fixture
def _dask():
    import dask
    import dask_jobqueue  # noqa: F401 - loads the defaults that are set here, as the next does
    import distributed  # noqa: F401

    with dask.config.set(ODD):
        yield


@pytest.mark.usefixtures("_dask")
def test_a_local_cluster_makes_the_table_of_this_process(tmp_path):
    scans = {
        "a": "fine", "b": "refuse", "c": "break", "d": "die 1", "e": "die 9", "f": "good",
    }  # fmt: skip
    (tmp_path / "one").mkdir()
    site = Site(tmp_path / "one", **scans)
    begun = site.run(2, scheduler="local")
    assert begun.count("d") >= 2
    assert begun.count("e") >= 3
    assert site.table("scan", "state", "code", "findings", "notices") == [
        ("sub/a", "done", "", "4", "usual"),
        ("sub/b", "refused", "input-damaged", "", "usual"),
        ("sub/c", "failed", "internal", "", "usual"),
        ("sub/d", "done", "", "3", "usual"),
        ("sub/e", "failed", "process-died", "", ""),
        ("sub/f", "done", "", "4", "usual"),
    ]
    site.files["a"].write_text(f"sleep {WAIT_S}")
    with pytest.raises(Cancelled, match="Scans that are done are kept"):
        site.run(2, scheduler="local", report=Stop(after=4))
    assert ("sub/a",) not in site.table("scan")


@pytest.mark.usefixtures("_dask")
def test_a_scan_above_the_memory_limit_fails_and_costs_no_other(tmp_path):
    import dask

    site = Site(tmp_path, a="fine", b="fill 600", c="good", d="fine")
    with dask.config.set({"distributed.worker.memory.terminate": 0.9}):
        begun = site.run(2, scheduler="local", memory="500MB")
    assert begun.count("b") == 3
    assert site.table("scan", "state", "code") == [
        ("sub/a", "done", ""),
        ("sub/b", "failed", "cluster-memory"),
        ("sub/c", "done", ""),
        ("sub/d", "done", ""),
    ]
    assert "above it" in dict(site.table("scan", "reason"))["sub/b"]


@pytest.mark.usefixtures("_dask")
def test_a_gpu_computes_one_scan_at_a_time(tmp_path):
    from distributed import Client, Nanny, Scheduler, SpecCluster

    scans = {f"s{number}": "alone 0.05" for number in range(8)}
    site, options = Site(tmp_path, **scans), {"nthreads": 2, "host": "127.0.0.1"}
    workers = {
        "with": {"cls": Nanny, "options": options | {"resources": {"GPU": 1}}},
        "without": {"cls": Nanny, "options": options},
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with SpecCluster(workers, scheduler) as cluster, Client(cluster) as client:
        processes = client.run(os.getpid)
        infos = client.scheduler_info(n_workers=-1)["workers"]
        site.run(scheduler=cluster.scheduler_address)
    assert site.outcome.is_complete  # a scan beside another one fails
    used = {int(line.split()[1]) for line in site.log.read_text().splitlines()}
    assert used == {processes[one] for one in processes if infos[one]["resources"]}


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("SpatialARAnomalyLib.service.batch.cluster.CONNECT_S", 0.2)
    with pytest.raises(SpatialARError) as caught:
        Site(tmp_path, a="fine").run(scheduler="tcp://127.0.0.1:9")
    assert caught.value.code == "cluster-unreachable"


class Machines:
    """A scheduler and workers at an address, started as on other machines."""

    def __init__(self, port: int, workers: int) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self._port, self._count = port, workers
        self.start()

    def _dask(self, *arguments: str) -> subprocess.Popen:
        environment = os.environ | {
            "DASK_DISTRIBUTED__WORKER__PRELOAD": odd_scans.__file__,
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "50",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments], env=environment, start_new_session=True
        )

    def start(self) -> None:
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"
        )
        self.workers = [self._worker() for _ in range(self._count)]

    def _worker(self) -> subprocess.Popen:
        return self._dask(
            *("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"),
            "--no-nanny",
        )

    def kill_worker(self, number: int) -> None:
        """Kill a worker as a machine that fails, and start another one."""
        kill(self.workers[number])
        self.workers[number] = self._worker()

    def restart(self) -> None:
        """Kill the scheduler, and start it and its workers again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        for process in (self.scheduler, *self.workers):
            kill(process)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(WAIT_S)


@pytest.fixture
def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


COLUMNS = ("scan", "state", "code", "reason", "findings", "notices")
"""Columns that are the same wherever a batch is computed."""


def run_to_the_end(site: Site, report: Stop, **place) -> None:
    """Run a batch, and again as a user would if a scan was killed too often."""
    for _ in range(5):
        site.run(report=report, **place)
        if site.outcome.is_complete:
            return


@pytest.mark.usefixtures("_dask")
def test_workers_killed_at_20_moments_and_new_schedulers_cost_nothing(tmp_path, free_port):
    (tmp_path / "serial").mkdir()
    (tmp_path / "cluster").mkdir()
    scans = {f"s{number}": f"sleep {0.02 * (number % 5)}" for number in range(60)}
    serial, site = Site(tmp_path / "serial", **scans), Site(tmp_path / "cluster", **scans)
    serial.run()
    machines = Machines(free_port, 2)
    moments = random.Random(7)
    at = dict.fromkeys(sorted(moments.sample(range(1, 58), 20)), machines.kill_worker)
    for number in list(at)[5::7]:
        at[number] = lambda _: machines.restart()

    class Harm(Stop):
        """Does harm when so many scans are done, a moment later."""

        def progress(self, done, total, unit):
            super().progress(done, total, unit)
            if done in at:
                time.sleep(moments.uniform(0, 0.08))
                at.pop(done)(moments.randrange(2))

    try:
        run_to_the_end(site, Harm(after=99), scheduler=machines.address)
    finally:
        machines.stop()
    assert not at
    assert site.table(*COLUMNS) == serial.table(*COLUMNS)
    assert results(site) == results(serial)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if not slurm_site.is_installed():
        pytest.skip("Slurm and munge are not installed, or this user may not start them")
    site = slurm_site.Slurm(tmp_path_factory.mktemp("slurm"))
    yield site
    site.close()


@pytest.mark.slurm
@pytest.mark.usefixtures("_dask")
def test_a_slurm_job_that_is_preempted_costs_nothing(slurm, tmp_path, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", odd_scans.__file__)
    (tmp_path / "serial").mkdir()
    (tmp_path / "slurm").mkdir()
    scans = {f"s{number}": f"sleep {0.1 * (number % 3)}" for number in range(40)}
    serial, site = Site(tmp_path / "serial", **scans), Site(tmp_path / "slurm", **scans)
    serial.run()
    settings = {
        "jobqueue.slurm.interface": "lo",
        "jobqueue.slurm.queue": "low",
        "jobqueue.slurm.memory": "512MB",
        "jobqueue.slurm.log-directory": str(tmp_path / "logs"),
        "jobqueue.slurm.job-directives-skip": ["--mem"],
        "jobqueue.slurm.local-directory": str(tmp_path / "scratch"),
    }

    import dask

    class Preempting(Stop):
        """Preempts the jobs of the batch once, with one of more priority."""

        preempted = ""

        def progress(self, done, total, unit):
            super().progress(done, total, unit)
            if done >= 8 and not self.preempted:
                self.preempted = slurm.ask(
                    "sbatch", "--partition=high", "--parsable", "--output=/dev/null",
                    "--ntasks=2", "--wrap", "sleep 2",
                )  # fmt: skip

    reporter = Preempting(after=99)
    with dask.config.set(settings):
        run_to_the_end(site, reporter, jobs=2, scheduler="slurm")
    assert "preempt" in slurm.logs()
    assert site.table(*COLUMNS) == serial.table(*COLUMNS)
    assert results(site) == results(serial)

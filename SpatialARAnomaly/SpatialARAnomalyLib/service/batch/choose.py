"""The choice of a place by the options of a command."""

from importlib.util import find_spec

from SpatialARAnomalyLib.engine.errors import SetupError, SpecError
from SpatialARAnomalyLib.service.batch.places import HERE, Place
from SpatialARAnomalyLib.service.batch.processes import Processes


def choose_place(
    jobs: int, scheduler: str | None = None, worker_memory: str | None = None
) -> Place:
    """Return a cluster for a scheduler, else this process for one job, or several processes.

    Raises `SpecError` for a memory without a scheduler, `SetupError` without Dask.
    """
    if scheduler is not None:
        for package in ("distributed", "dask_jobqueue"):
            if find_spec(package) is None:
                raise SetupError(
                    "cluster-missing",
                    f"A scheduler needs the Python package {package!r}; it is not installed.",
                )
        from SpatialARAnomalyLib.service.batch.cluster import Cluster

        return Cluster(scheduler, jobs, worker_memory)
    if worker_memory is not None:
        raise SpecError("spec-value", "A worker's memory is limited by a scheduler; none is given.")
    return HERE if jobs == 1 else Processes(jobs)

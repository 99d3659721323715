"""The places of one machine."""

from SpatialARAnomalyLib.service.batch.places import Here, Place
from SpatialARAnomalyLib.service.batch.processes import Processes


def local_place(jobs: int) -> Place:
    """Return this process for one job, else as many worker processes."""
    return Here() if jobs == 1 else Processes(jobs)

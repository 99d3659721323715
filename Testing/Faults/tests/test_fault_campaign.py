"""A seeded sample of the fault campaign (`Resources/Docs/reliability.md` has the whole one)."""

import sys
from pathlib import Path

import numpy as np
import pytest
from Faults.campaign import Campaign, can_mount, hammer
from Faults.faults import Fault
from Faults.nursery import Nursery
from Faults.operations import OPERATIONS
from service.small_site import make_site

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(folder / "settings"))
        (folder / "site").mkdir()
        site = make_site(folder / "site")
    with Nursery() as nursery:
        yield Campaign(nursery, site, folder)


def no_problems(campaign: Campaign) -> None:
    problems, campaign.tally.problems = campaign.tally.problems, []
    assert problems == []


def test_kills_cost_nothing_that_was_done(campaign):
    random = np.random.RandomState(7)
    for _ in range(6):
        campaign.kill(random)
    no_problems(campaign)


def test_a_kill_between_two_results_is_completed(campaign):
    """The set of result files is never a mixture of two runs after the next one."""
    operation = OPERATIONS["detect"]
    campaign.meet(operation, Fault("signal", campaign.operations(operation) - 16, 9))
    no_problems(campaign)


def test_refused_files_are_told(campaign):
    random = np.random.RandomState(3)
    for _ in range(3):
        campaign.refuse(random)
    no_problems(campaign)


def test_full_disks_are_told(campaign, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("no small disk can be mounted here (needs root)")
    random = np.random.RandomState(5)
    for _ in range(3):
        campaign.fill_disk(random)
    no_problems(campaign)


def test_a_worker_that_is_killed_is_told_and_its_job_repeated(campaign):
    random = np.random.RandomState(2)
    for _ in range(3):
        campaign.kill_worker(random)
    no_problems(campaign)


def test_too_little_memory_is_told(campaign):
    for name, megabytes in (("train again", 10), ("train", 45), ("evaluate", 20), ("import", 0.5)):
        campaign.meet(OPERATIONS[name], Fault("memory", int(megabytes * 1e6)))
    no_problems(campaign)
    assert campaign.tally.ends["out-of-memory"] >= 3


@pytest.mark.parametrize(
    ("name", "place", "at"),
    [("train", "brain.training/features", 23), ("detect", ".", 20), ("import", "models", 7)],
)
def test_a_folder_that_vanishes_is_told(campaign, name, place, at):
    campaign.vanish_at(OPERATIONS[name], place, at)
    no_problems(campaign)


def test_a_clock_that_jumps_changes_nothing(campaign):
    for seconds in (10 * 365 * 86400, -10 * 365 * 86400):
        campaign.meet(OPERATIONS["detect again"], Fault("clock", 8, seconds))
    no_problems(campaign)


def test_two_processes_use_one_library(tmp_path: Path):
    assert hammer(tmp_path / "hammered", 4.0) == []

"""Containers without a home, empty variables, pipes, long names: one message, nothing odd left."""

import os
import pwd

import pytest
from service.small_site import run
from SpatialARAnomalyLib.engine.device import choose_threads
from SpatialARAnomalyLib.engine.errors import InputError, OutputError
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file
from SpatialARAnomalyLib.service.encoders import hub, registry
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.service.redaction import redact_folders
from SpatialARAnomalyLib.service.scans import find_scans
from SpatialARAnomalyLib.service.user_folder import HOME_VARIABLE, user_folder


@pytest.fixture
def plain(monkeypatch, tmp_path):
    """None of the variables that name folders is set."""
    for name in (HOME_VARIABLE, "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def homeless(plain):
    """A user id that the system does not know, without HOME."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    plain.delenv("HOME", raising=False)
    plain.setattr(pwd, "getpwuid", unknown)
    return plain


@pytest.mark.parametrize("value", ["", "relative"])
def test_an_empty_or_relative_xdg_variable_is_none(plain, tmp_path, value):
    plain.setenv("HOME", str(tmp_path))
    plain.setenv("XDG_CONFIG_HOME", value)
    plain.setenv("XDG_CACHE_HOME", value)
    assert user_folder() == tmp_path / ".config" / "spatial-ar-anomaly"
    assert hub.cache_folder() == tmp_path / ".cache" / "huggingface" / "hub"


def test_an_empty_home_variable_is_none(plain, tmp_path):
    plain.setenv("HOME", str(tmp_path))
    for name in (HOME_VARIABLE, "HF_HOME", "HF_HUB_CACHE"):
        plain.setenv(name, "")
    assert user_folder() == tmp_path / ".config" / "spatial-ar-anomaly"
    assert hub.cache_folder() == tmp_path / ".cache" / "huggingface" / "hub"


@pytest.mark.parametrize("command", [("models", "list"), ("encoders", "list")])
def test_without_a_home_one_message_names_the_variable(homeless, tmp_path, command):
    for folder in (user_folder, hub.cache_folder):
        with pytest.raises(OutputError, match=HOME_VARIABLE) as caught:
            folder()
        assert caught.value.code == "home-missing"
    done = run(*command)
    assert done.exit_code == 2
    assert done.stderr.count(HOME_VARIABLE) == 2  # in the message and in the hint
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_without_a_home_encoders_are_found_by_their_place(homeless, tmp_path):
    registry.remember("aa", "owner/name")
    assert registry.recall("aa") is None
    assert registry.sources() == []
    assert redact_folders("in /home/somebody/x.py") == "in …/x.py"
    assert os.listdir(tmp_path) == []
    homeless.setenv(HOME_VARIABLE, str(tmp_path / "settings"))
    registry.remember("aa", "owner/name")
    assert registry.recall("aa") == "owner/name"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["pipe", "pipe.nii.gz"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (read_volume_file, find_scans):
        with pytest.raises(InputError, match="found a pipe or a device") as caught:
            read(tmp_path / name)
        assert caught.value.code == "input-format"


def test_a_name_too_long_for_the_disk_is_told_before_the_computation(tmp_path):
    names = ["scan.csv", f"{'ö' * 124}_nll.nrrd"]
    with (
        pytest.raises(OutputError) as caught,
        write_atomically(tmp_path / "new", names, overwrite=False),
    ):
        pytest.fail("not reached")
    assert caught.value.code == "output-name"
    assert "The name of a result must have at most 255 bytes" in caught.value.message
    assert not (tmp_path / "new").exists()


def test_threads_give_their_core_away_while_they_wait(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    choose_threads()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("PASSIVE", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # the user's own word
    run("--threads", "3", "models", "list")
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("ACTIVE", "3")
    assert run("--threads", "0", "models", "list").exit_code == 2

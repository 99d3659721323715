"""A model finds its encoder again, and a broken registry stops nothing."""

import json
from pathlib import Path

import pytest
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.registry import (
    recall,
    remember,
)
from SpatialARAnomalyLib.service.user_folder import HOME_VARIABLE

HUB_ID = "timm/vit_small_patch16_dinov3.lvd1689m"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home" / "of the user"
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    monkeypatch.chdir(tmp_path)
    return home


def test_what_was_remembered_is_recalled(home, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    remember("aa", str(weights))
    remember("bb", HUB_ID)
    remember("cc", "demonstration")
    assert recall("aa") == str(weights)
    assert recall("bb") == HUB_ID
    assert recall("cc") == "demonstration"
    assert recall("dd") is None
    assert sorted(path.name for path in home.iterdir()) == ["encoders.json", "encoders.lock"]


def test_the_last_place_counts(home):
    remember("aa", HUB_ID)
    remember("aa", "facebook/dinov3-vits16-pretrain-lvd1689m")
    assert recall("aa") == "facebook/dinov3-vits16-pretrain-lvd1689m"


def test_a_relative_path_is_found_from_elsewhere(home, tmp_path, monkeypatch):
    (tmp_path / "encoder").mkdir()
    remember("aa", "encoder")
    monkeypatch.chdir("/")
    assert recall("aa") == str(tmp_path / "encoder")


def test_a_path_that_is_gone_is_not_recalled(home, tmp_path):
    (tmp_path / "encoder").mkdir()
    remember("aa", str(tmp_path / "encoder"))
    (tmp_path / "encoder").rmdir()
    assert recall("aa") is None
    (tmp_path / "encoder").mkdir()
    assert recall("aa") == str(tmp_path / "encoder")


def test_the_demonstration_encoder_is_no_folder(home, tmp_path):
    """`load_encoder` takes the name for the embedded one, whatever lies beside."""
    (tmp_path / "demonstration").mkdir()
    remember("aa", "demonstration")
    assert recall("aa") == "demonstration"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "5", "[" * 100_000, '{"aa": 5}', '{"aa": ["x"]}', "\ud800"]
)
def test_a_corrupt_file_is_as_none(home, text):
    home.mkdir(parents=True)
    (home / "encoders.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert recall("aa") is None
    remember("aa", HUB_ID)
    assert recall("aa") == HUB_ID


def test_what_is_sound_in_a_file_is_kept(home):
    home.mkdir(parents=True)
    (home / "encoders.json").write_text(json.dumps({"aa": 5, "bb": HUB_ID}))
    remember("cc", "demonstration")
    assert (recall("aa"), recall("bb"), recall("cc")) == (None, HUB_ID, "demonstration")


def test_a_home_that_cannot_be_written_stops_nothing(home):
    home.parent.mkdir(parents=True)
    home.write_text("a file in its place")
    remember("aa", HUB_ID)
    assert recall("aa") is None
    assert home.read_text() == "a file in its place"


def test_a_full_disk_stops_nothing_and_leaves_the_file(home, monkeypatch):
    remember("aa", HUB_ID)
    before = (home / "encoders.json").read_text()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    remember("bb", HUB_ID)
    assert (home / "encoders.json").read_text() == before
    assert sorted(path.name for path in home.iterdir()) == ["encoders.json", "encoders.lock"]


def test_what_is_known_already_is_not_written_again(home):
    remember("aa", HUB_ID)
    (home / "encoders.json").write_text(json.dumps({"aa": HUB_ID}))
    remember("aa", HUB_ID)
    assert (home / "encoders.json").read_text() == json.dumps({"aa": HUB_ID})


def test_without_the_variable_it_lies_in_the_users_settings(monkeypatch):
    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/settings")
    monkeypatch.setattr("sys.platform", "linux")
    assert registry._file() == Path("/settings/spatial-ar-anomaly/encoders.json")

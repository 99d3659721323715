"""Names of files that every system can hold."""

import ntpath

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.file_names import RESERVED, file_name_problem, make_file_name
from SpatialARAnomalyLib.engine.model.model_file import check_free

SIGNS = (*'aZ09 .._-:\\/*?"<>|\t\n\0é脳', "\u202e", "\ud800", "\u3000", "con", "AUX", "nul", "lpt9")


def test_a_name_that_was_made_is_valid_and_stays():
    random = np.random.RandomState(0)
    for _ in range(3000):
        name = "".join(random.choice(SIGNS, random.randint(9)))
        made = make_file_name(name)
        assert file_name_problem(made) is None, (name, made)
        assert make_file_name(made) == made
        assert (made == name) == (file_name_problem(name) is None), (name, made)
        assert ntpath.basename(made) == made


@pytest.mark.parametrize("device", sorted(RESERVED))
def test_windows_reserves_devices_with_any_extension_and_case(device):
    for name in (device, device.upper(), f"{device}.txt", f"{device} .nii.gz", f"{device}.a.b"):
        assert file_name_problem(name) is not None
    assert file_name_problem(f"{device}1") is None or f"{device}1" in RESERVED
    assert file_name_problem(f"a {device}") is None


@pytest.mark.parametrize(
    ("name", "made"),
    [("C:\\", "C__"), ("\\\\server\\share", "__server_share"), ("NUL.x", "NUL_.x"), ("..", "scan")],
)
def test_roots_of_windows_and_devices_become_names(name, made):
    assert make_file_name(name) == made


@pytest.mark.parametrize("name", ["CON", "nul.safetensors", "aux.t1", "brain:t1", "brain?"])
def test_a_model_is_not_written_to_a_name_that_other_systems_cannot_hold(tmp_path, name):
    with pytest.raises(OutputError, match="name of a model's file must") as caught:
        check_free(tmp_path / name, overwrite=True)
    assert caught.value.code == "output-name"

"""BMAD's folders are found in all known layouts; wrong ones are refused."""

import shutil
from pathlib import Path

import pytest
from Benchmark.real.layout import find_dataset, group_by_patient
from Benchmark.tests.small_sets import LAYOUTS, SLICES, TEST_GOOD, TEST_UNGOOD, TRAINING, make_set
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow


def names(patients: tuple[str, ...]) -> list[str]:
    return [f"{patient}_{number}.png" for patient in patients for number in SLICES]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(tmp_path, layout):
    data = find_dataset(make_set(tmp_path, layout))
    assert [image.path.name for image in data.training] == names(TRAINING)
    assert not any(image.label for image in data.training)
    normal = [image for image in data.test if image.label is None]
    ill = [image for image in data.test if image.label is not None]
    assert [image.path.name for image in normal] == names(TEST_GOOD)
    assert [image.path.name for image in ill] == names(TEST_UNGOOD)
    for image in ill:
        assert image.label.name == image.path.name
        assert image.label.is_file()
        assert image.label != image.path


def test_the_case_of_folders_does_not_count(tmp_path):
    make_set(tmp_path)
    (tmp_path / "test" / "Ungood").rename(tmp_path / "test" / "ungood")
    (tmp_path / "train").rename(tmp_path / "Train")
    assert len(find_dataset(tmp_path).test) == 6


def test_file_names_give_the_patients(tmp_path):
    data = find_dataset(make_set(tmp_path, "liver"))
    groups = group_by_patient(data.training)
    assert tuple(groups) == TRAINING
    for name, images in groups.items():
        assert {image.patient for image in images} == {name}


def test_an_image_without_a_patient_is_one(tmp_path):
    make_set(tmp_path, "liver")
    good = tmp_path / "train" / "good"
    (good / "00001_60.png").rename(good / "17.png")
    assert find_dataset(tmp_path).training[-1].patient == "17"


def test_a_wrong_folder_is_refused_with_the_expected_layout(tmp_path):
    (tmp_path / "train" / "bad").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path)
    assert caught.value.code == "bmad-layout"
    expected = (
        "train/good/img/*.png, test/good/img/*.png, test/Ungood/img/*.png, "
        "test/Ungood/anomaly_mask/*.png"
    )
    assert f"BMAD's folders were expected: {expected}; found in" in caught.value.message
    assert "train, train/bad. Name the folder" in caught.value.message


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"found in .*: no folders"):
        find_dataset(tmp_path)


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(_place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("Benchmark.real.layout._folders", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        find_dataset(tmp_path)


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"found in '{tmp_path.name}'"):
        find_dataset(Path())


@pytest.mark.parametrize("missing", ["train", "test/good", "test/Ungood"])
def test_an_incomplete_set_is_refused(tmp_path, missing):
    make_set(tmp_path)
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path)
    assert caught.value.code == "bmad-layout"


def test_an_anomalous_image_without_its_label_is_refused(tmp_path):
    make_set(tmp_path)
    (tmp_path / "test" / "Ungood" / "anomaly_mask" / "00021_60.png").unlink()
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path)
    assert caught.value.code == "bmad-label-missing"
    assert (
        "in test/Ungood/anomaly_mask/ or test/Ungood/label/; 1 of 4 have none, "
        "the first '00021_60.png'" in caught.value.message
    )

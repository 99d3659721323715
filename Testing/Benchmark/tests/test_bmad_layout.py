"""BMAD's folders are found in all known layouts; wrong ones are refused."""

import shutil
from pathlib import Path

import pytest
from Benchmark.bmad.layout import DatasetName, count_unnamed, find_dataset, group_by_patient
from Benchmark.tests.bmad_sets import LAYOUTS, SLICES, TEST_GOOD, TEST_UNGOOD, TRAINING, make_set
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow


def names(patients: tuple[str, ...]) -> list[str]:
    return [f"{patient}_{number}.png" for patient in patients for number in SLICES]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", DatasetName)
def test_every_layout_is_found_for_every_set(tmp_path, which, layout):
    data = find_dataset(make_set(tmp_path, which, layout), which)
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


@pytest.mark.parametrize(
    ("which", "below"),
    [
        (DatasetName.BRATS2021, "Brain"),
        (DatasetName.LIVER, "Liver"),
        (DatasetName.LIVER, "Liver/Train/hist_DIY"),
        (DatasetName.RESC, "Retina_RESC"),
        (DatasetName.RESC, "resc"),
    ],
)
def test_a_set_is_found_in_the_folder_of_all_sets(tmp_path, which, below):
    make_set(tmp_path / below, which)
    assert len(find_dataset(tmp_path, which).training) == len(TRAINING) * len(SLICES)


def test_the_case_of_folders_does_not_count(tmp_path):
    make_set(tmp_path, DatasetName.BRATS2021)
    (tmp_path / "test" / "Ungood").rename(tmp_path / "test" / "ungood")
    (tmp_path / "train").rename(tmp_path / "Train")
    assert len(find_dataset(tmp_path, DatasetName.BRATS2021).test) == 6


def test_file_names_give_the_patients(tmp_path):
    data = find_dataset(make_set(tmp_path, DatasetName.LIVER), DatasetName.LIVER)
    groups = group_by_patient(data.training)
    assert [{image.patient for image in group} for group in groups] == [{one} for one in TRAINING]
    assert count_unnamed(data.training) == 0


def test_names_without_a_patient_are_counted(tmp_path):
    make_set(tmp_path, DatasetName.LIVER)
    good = tmp_path / "train" / "good"
    (good / "00001_60.png").rename(good / "17.png")
    data = find_dataset(tmp_path, DatasetName.LIVER)
    assert count_unnamed(data.training) == 1
    assert data.training[-1].patient == "17"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (DatasetName.BRATS2021, "train/good/img/*.png, test/good/img/*.png, test/Ungood/img/*.png, "
         "test/Ungood/anomaly_mask/*.png"),
        (DatasetName.LIVER, "train/good/*.png, test/img/good/*.png, test/img/Ungood/*.png, "
         "test/label/Ungood/*.png"),
        (DatasetName.RESC, "Train/train/good/*.png, Test/test/good/*.png, Test/test/Ungood/*.png, "
         "Test/test_label/Ungood/*.png"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused_with_the_expected_layout(tmp_path, which, expected):
    (tmp_path / "train" / "bad").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path, which)
    assert caught.value.code == "bmad-layout"
    assert f"BMAD's {which} set was expected: {expected}; found in" in caught.value.message
    assert "train, train/bad. Name the folder" in caught.value.message


def test_an_empty_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"found in .*: no folders"):
        find_dataset(tmp_path, DatasetName.RESC)
    with pytest.raises(InputError, match="'nowhere' is not a folder"):
        find_dataset(tmp_path / "nowhere", DatasetName.RESC)


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(_place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("Benchmark.bmad.layout._folders", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        find_dataset(tmp_path, DatasetName.RESC)


def test_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"found in '{tmp_path.name}'"):
        find_dataset(Path(), DatasetName.RESC)


@pytest.mark.parametrize("missing", ["train", "test/good", "test/Ungood"])
def test_an_incomplete_set_is_refused(tmp_path, missing):
    make_set(tmp_path, DatasetName.BRATS2021)
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path, DatasetName.BRATS2021)
    assert caught.value.code == "bmad-layout"


def test_an_anomalous_image_without_its_label_is_refused(tmp_path):
    make_set(tmp_path, DatasetName.BRATS2021)
    (tmp_path / "test" / "Ungood" / "anomaly_mask" / "00021_60.png").unlink()
    with pytest.raises(InputError) as caught:
        find_dataset(tmp_path, DatasetName.BRATS2021)
    assert caught.value.code == "bmad-label-missing"
    assert (
        "in test/Ungood/anomaly_mask/ or test/Ungood/label/; 1 of 4 have none, "
        "the first '00021_60.png'" in caught.value.message
    )

"""Enhanced multi-frame objects and repeats: read as pydicom reads them, named and chosen."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from engine.dicom_examples import AXIAL, Series, item, multi_frame, save, small_series
from engine.dicom_oracle import check_volume, read_images
from engine.grids import rotation
from pydicom.uid import RLELossless
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom import list_volumes, read_series
from SpatialARAnomalyLib.engine.volumes.dicom_series import choose_series, list_series
from SpatialARAnomalyLib.engine.volumes.volume import Volume


def read(source: Path, **choice) -> Volume:
    paths = source if source.is_dir() else [source]
    return read_series(choose_series(list_series(paths), None), **choice)


def volumes(count: int, **settings) -> list:
    first = small_series(4, dtype="u2", **settings)
    return [first.with_(stored=first.stored + n) for n in range(count)]


RESCALE = {"RescaleSlope": "1", "RescaleIntercept": "0"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("packed", [False, True])
def test_multi_frame_is_placed_and_rescaled_by_its_groups(tmp_path, seed, packed):
    turn = rotation(np.random.RandomState(seed), 60.0)
    (series,) = volumes(1, orientation=tuple(np.concatenate([turn[:, 0], turn[:, 1]])))
    rescale = {"RescaleSlope": "0.5", "RescaleIntercept": "-3"}
    image = multi_frame([series], [{"PixelValueTransformationSequence": rescale}], {})
    path = save(image, tmp_path / "a")
    if packed:
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    volume = read(path)
    np.testing.assert_array_equal(volume.voxels, (series.stored * 0.5 - 3).astype("f4"))
    np.testing.assert_allclose(volume.ras_from_voxel, series.ras_from_voxel, atol=1e-6)
    check_volume(volume, read_images([path]))


def test_every_frame_has_its_own_rescaling(tmp_path):
    (series,) = volumes(1)
    image = multi_frame([series], [{}], {"PixelValueTransformationSequence": RESCALE})
    slopes = [0.5, 0.25, 2, 1]
    for group in image.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        k = round((float(position[2]) - 30) / 2.5)
        group.PixelValueTransformationSequence = item(
            RescaleSlope=str(slopes[k]), RescaleIntercept=str(k)
        )
    path = save(image, tmp_path / "image")
    exact = series.stored * np.array(slopes)[:, None, None] + np.arange(4)[:, None, None]
    np.testing.assert_array_equal(read(path).voxels, exact.astype("f4"))


TRAITS = {
    "echo time": [{"MREchoSequence": {"EffectiveEchoTime": te}} for te in (4.6, 9.2)],
    "image type": [
        {"MRImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "T1", kind],
                                      "ComplexImageComponent": component}}
        for kind, component in (("M", "MAGNITUDE"), ("PHASE_MAP", "PHASE"))
    ],
    "b-value": [{"MRDiffusionSequence": {"DiffusionBValue": b}} for b in (0.0, 1000.0)],
    "time point": [{"FrameContentSequence": {"TemporalPositionIndex": n}} for n in (1, 2)],
    "the order": [{"FrameContentSequence": {"DimensionIndexValues": [1, n]}} for n in (1, 2)],
    "image number": [{}, {}],
}  # fmt: skip
LABELS = {
    "echo time": ["echo time 4.6 ms", "echo time 9.2 ms"],
    "image type": ["magnitude", "phase"],
    "b-value": ["b-value 0", "b-value 1000"],
    "time point": ["time point 1", "time point 2"],
    "the order": ["repeat 1", "repeat 2"],
    "image number": ["image 1", "image 2"],
}


@pytest.mark.parametrize(
    ("trait", "files"),
    [
        *((trait, 2) for trait in TRAITS if trait != "the order"),
        *((trait, 1) for trait in TRAITS if trait != "image number"),
    ],
)
def test_repeats_are_named_and_chosen(tmp_path, trait, files):
    both = volumes(2)
    if files == 1:
        save(multi_frame(both, TRAITS[trait], {}), tmp_path / "a")
    else:
        for n, one in enumerate(both):
            image = multi_frame([one], [TRAITS[trait][n]], {}, InstanceNumber=n + 1)
            image.SOPInstanceUID = f"1.2.3.{n}"
            save(image, tmp_path / str(9 - n))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    error = caught.value
    assert (error.code, error.facts) == ("dicom-4d", {"volumes": 2})
    assert "each of the 4 positions has 2" in error.message
    assert f"differ in {trait}" in error.message
    assert "make 2 volumes" in error.message
    named = list_volumes(choose_series(list_series(tmp_path), None))
    assert named == [f"{label}, 4 slices" for label in LABELS[trait]]
    for n, one in enumerate(both):
        volume = read(tmp_path, volume=n + 1)
        np.testing.assert_array_equal(volume.voxels, one.stored)
        np.testing.assert_allclose(volume.ras_from_voxel, one.ras_from_voxel, atol=1e-8)
    with pytest.raises(InputError, match="No volume has the number 3; there are 2") as caught:
        read(tmp_path, volume=3)
    assert caught.value.code == "volume-number"


def test_repeats_without_numbers_are_in_the_order_of_their_times(tmp_path):
    both = volumes(2)
    for n, one in enumerate(both):
        for k in range(4):  # the times of slices differ, and names run against them in part
            image = one.image(k, InstanceNumber=None, AcquisitionTime=f"10{n:02}{k:02}")
            image.SOPInstanceUID = f"1.2.{n}.{k}"
            save(image, tmp_path / f"{k}{(n + k) % 2}")
    for n, one in enumerate(both):
        np.testing.assert_array_equal(read(tmp_path, volume=n + 1).voxels, one.stored)


@pytest.mark.parametrize("sequence", ["MRImageFrameTypeSequence", "CTImageFrameTypeSequence"])
def test_frame_types_without_a_complex_component_tell_volumes_apart(tmp_path, sequence):
    both = volumes(2)
    own = [{sequence: {"FrameType": ["ORIGINAL", "PRIMARY", kind, "NONE"]}} for kind in "MP"]
    path = save(multi_frame(both, own, {}), tmp_path / "image")
    (series,) = list_series([path])
    assert list_volumes(series) == ["magnitude, 4 slices", "phase, 4 slices"]
    np.testing.assert_array_equal(read(path, volume=2).voxels, both[1].stored)


def test_two_traits_at_once(tmp_path):
    four = volumes(4)
    own = [
        {"MREchoSequence": {"EffectiveEchoTime": te}, "MRDiffusionSequence": {"DiffusionBValue": b}}
        for te in (5.0, 10.0)
        for b in (0.0, 700.0)
    ]
    path = save(multi_frame(four, own, {}), tmp_path / "image")
    (series,) = list_series([path])
    assert list_volumes(series)[3] == "echo time 10 ms, b-value 700, 4 slices"
    for n, one in enumerate(four):
        np.testing.assert_array_equal(read(path, volume=n + 1).voxels, one.stored)


def test_an_attribute_that_changes_from_slice_to_slice_is_no_repeat(tmp_path):
    series = small_series(4)
    for n in range(2):
        for k in range(4):
            name = f"{n}{k}"
            image = series.image(
                k, SOPInstanceUID=f"1.2.{name}", InstanceNumber=n * 4 + k,
                AcquisitionTime=f"1200{n * 4 + k:02d}", EchoTime=str(10 * (n + 1)),
            )  # fmt: skip
            save(image, tmp_path / name)
    (listed,) = list_series(tmp_path)
    assert list_volumes(listed) == ["echo time 10 ms, 4 slices", "echo time 20 ms, 4 slices"]


@pytest.mark.parametrize(
    ("tag", "value", "label"),
    [
        (0x0019100C, "{}", "b-value"),  # Siemens
        (0x00431039, "{}\\0\\0\\0", "b-value"),  # GE
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
def test_private_b_values(tmp_path, tag, value, label, implicit):
    series = small_series(3)
    for n, b_value in enumerate((0, 1000)):
        for k in range(3):
            image = series.image(k, SOPInstanceUID=f"1.2.{n}.{k}")
            image.add_new(tag, "UN" if implicit else "LO", b"")
            text = value.format(b_value)
            image[tag].value = text.encode() if implicit else text
            save(image, tmp_path / f"{n} {k}")
    (listed,) = list_series(tmp_path)
    assert list_volumes(listed) == ["b-value 0, 3 slices", "b-value 1000, 3 slices"]


@pytest.mark.parametrize("lost", ["own", "own group", "frames"])
def test_multi_frame_without_places(tmp_path, lost):
    (series,) = volumes(1)
    image = multi_frame([series], [{}], {})
    if lost == "own":
        del image.PerFrameFunctionalGroupsSequence
    elif lost == "own group":
        del image.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    else:
        image.PixelData = image.PixelData[:-96]
    path = save(image, tmp_path / "image")
    with pytest.raises(InputError) as caught:
        read(path)
    assert (lost, caught.value.code) in {
        ("own", "dicom-multiframe"),
        ("own group", "dicom-geometry"),
        ("frames", "input-damaged"),
    }


def test_orientations_in_one_object_are_volumes(tmp_path):
    axial, coronal = small_series(3, "u2"), small_series(2, "u2", orientation=(1, 0, 0, 0, 0, -1))
    groups = [
        {"PlaneOrientationSequence": {"ImageOrientationPatient": list(one.orientation)}}
        for one in (axial, coronal)
    ]
    path = save(multi_frame([axial, coronal], groups, {}), tmp_path / "image")
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == "dicom-mixed"
    assert "1: axial 6 × 8, 3 slices; 2: coronal 6 × 8, 2 slices" in caught.value.message
    np.testing.assert_array_equal(read(path, volume=1).voxels, axial.stored)
    assert tuple(axial.orientation) == AXIAL


def test_stacks_that_make_no_even_one_together_are_volumes(tmp_path):
    first, second = volumes(2)
    far = second.with_(origin=(-10.0, 20.0, 90.0))
    next_ = second.with_(origin=tuple(np.array(first.origin) + 4 * first.slice_step))
    named = [{"FrameContentSequence": {"StackID": name}} for name in ("1", "2")]
    save(multi_frame([first, far], named, {}), tmp_path / "apart")
    listed = choose_series(list_series([tmp_path / "apart"]), None)
    assert list_volumes(listed) == ["stack 1, 4 slices", "stack 2, 4 slices"]
    with pytest.raises(InputError, match="no even stack") as caught:
        read_series(listed)
    assert caught.value.code == "dicom-4d"
    for number, one in ((1, first), (2, far)):
        volume = read_series(listed, volume=number)
        np.testing.assert_array_equal(volume.voxels, one.stored)
        np.testing.assert_allclose(volume.ras_from_voxel, one.ras_from_voxel, atol=1e-8)
    save(multi_frame([first, next_], named, {}), tmp_path / "beside")
    volume = read_series(choose_series(list_series([tmp_path / "beside"]), None))
    np.testing.assert_array_equal(volume.voxels, np.concatenate([first.stored, next_.stored]))


@pytest.mark.parametrize("sideways", [False, True])
def test_each_of_drifting_repeats_is_where_it_says(tmp_path, sideways):
    """Five times, each 0.02 mm from the one before it."""
    move = np.array([0.02, 0.0, 0.0] if sideways else [0.0, 0.0, 0.02])
    times = [
        one.with_(origin=tuple(np.array(one.origin) + n * move)) for n, one in enumerate(volumes(5))
    ]
    own = [{"FrameContentSequence": {"TemporalPositionIndex": n}} for n in range(1, 6)]
    save(multi_frame(times, own, {}), tmp_path / "a")
    listed = choose_series(list_series([tmp_path / "a"]), None)
    assert list_volumes(listed) == [f"time point {n}, 4 slices" for n in range(1, 6)]
    for number, one in enumerate(times, start=1):
        volume = read_series(listed, volume=number)
        np.testing.assert_array_equal(volume.voxels, one.stored)
        np.testing.assert_allclose(volume.ras_from_voxel, one.ras_from_voxel, atol=1e-8)


def test_compressed_frames_are_decoded_in_their_places(tmp_path):
    """More frames than are decoded at a time; one volume of two is read."""
    random = np.random.RandomState(0)
    both = [
        Series(stored=random.randint(0, 4000, (25, 16, 16)).astype(np.uint16)) for _ in range(2)
    ]
    image = multi_frame(both, TRAITS["echo time"], {})
    image.compress(RLELossless, generate_instance_uid=False)
    save(image, tmp_path / "a")
    for number, one in enumerate(both, start=1):
        np.testing.assert_array_equal(read(tmp_path, volume=number).voxels, one.stored)

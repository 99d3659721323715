"""A module is loaded, entered, used, reloaded and unloaded as Slicer does it."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from Harness import LoadedModule, grab, settings_after_restart, slot_errors, wait_until

EXAMPLE = Path(__file__).parent / "harness_examples" / "HarnessExample" / "HarnessExample.py"


@pytest.fixture
def example(load_module: Callable[[Path], LoadedModule]) -> LoadedModule:
    return load_module(EXAMPLE)


def _ramp(name: str = "ramp"):
    import slicer

    return slicer.util.addVolumeFromArray(np.arange(64, dtype=np.int16).reshape(4, 4, 4), name=name)


def test_a_panel_works_from_its_ui_file_to_the_scene(example: LoadedModule) -> None:
    example.enter()
    ui = example.ui
    assert not ui.applyButton.enabled
    volume = _ramp()
    ui.inputSelector.setCurrentNode(volume)
    assert example.widget._parameters.inputVolume is volume
    assert ui.applyButton.enabled
    ui.thresholdSlider.value = 60
    assert example.widget._parameters.threshold == 60
    ui.applyButton.click()
    assert ui.resultLabel.text == "4 voxels"


def test_the_panel_follows_the_parameter_node(example: LoadedModule) -> None:
    example.widget._parameters.threshold = 33.5
    example.widget._parameters.name = "dark"
    assert example.ui.thresholdSlider.value == 33.5
    assert example.ui.nameEdit.text == "dark"


def test_entering_and_leaving_reach_the_widget(example: LoadedModule) -> None:
    panel = example.panel
    assert not panel.isEntered
    example.enter()
    assert panel.isEntered
    example.exit()
    assert not panel.isEntered
    assert example.widget.calls == ["enter", "exit"]


def test_unloading_cleans_up_once_and_forgets_the_module(
    load_module: Callable[[Path], LoadedModule],
) -> None:
    import slicer
    from Harness import load_scripted_module

    example = load_scripted_module(EXAMPLE)
    widget = example.widget
    example.unload()
    assert widget.calls == ["cleanup"]
    assert not hasattr(slicer.modules, "harnessexample")
    assert "HarnessExample" not in sys.modules
    _ramp()
    assert widget.calls == ["cleanup"]


def test_reloading_cleans_up_and_makes_a_new_widget_in_the_same_panel(
    example: LoadedModule,
) -> None:
    import slicer

    before, panel = example.widget, example.panel
    example.reload()
    assert before.calls == ["cleanup"]
    assert example.widget is not before
    assert example.panel is panel
    assert slicer.modules.HarnessExampleWidget is example.widget
    volume = _ramp()
    example.ui.inputSelector.setCurrentNode(volume)
    example.ui.applyButton.click()
    assert example.ui.resultLabel.text == "44 voxels"


def test_sample_data_are_registered_when_the_application_has_started(
    example: LoadedModule,
) -> None:
    import SampleData

    sources = SampleData.SampleDataLogic.sampleDataSourcesByCategory("Harness")
    assert [source.sampleName for source in sources] == ["HarnessRamp"]


def test_the_modules_own_test_runs(example: LoadedModule) -> None:
    test_class = sys.modules["HarnessExample"].HarnessExampleTest
    before = test_class.ran
    example.module.runTest(msec=0)
    assert test_class.ran == before + 1


def test_slicer_util_finds_the_module(example: LoadedModule) -> None:
    import slicer

    assert slicer.util.modulePath("HarnessExample") == str(EXAMPLE)
    assert slicer.util.getModuleWidget("HarnessExample") is example.widget
    assert slicer.util.getModule("HarnessExample") is example.parent


def test_an_error_in_the_panel_is_collected(example: LoadedModule) -> None:
    example.widget._unbind()
    with slot_errors.expected_slot_errors() as errors:
        example.ui.applyButton.click()
        example.ui.applyButton.enabled = True
        example.ui.applyButton.click()
    assert [type(error) for error in errors] == [AttributeError]


def test_settings_come_back_as_text_after_a_restart(example: LoadedModule, settings) -> None:
    example.ui.inputSelector.setCurrentNode(_ramp())
    example.ui.applyButton.click()
    assert settings.value("HarnessExample/last") == 44
    assert settings_after_restart().value("HarnessExample/last") == "44"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_of_the_panel_shows_its_color_scheme(
    example: LoadedModule, tmp_path: Path, scheme: str
) -> None:
    import qt

    image = qt.QImage(str(grab(example.panel, tmp_path / "panel.png", scheme=scheme)))
    assert image.width() == 480
    corner = image.pixelColor(2, image.height() - 2).lightness()
    assert (corner > 128) == (scheme == "light")


def test_closing_the_scene_leaves_a_panel_that_binds_again(example: LoadedModule, scene) -> None:
    example.enter()
    example.widget._parameters.threshold = 70
    scene.Clear(False)
    assert example.widget._parameters is None
    example.exit()
    example.enter()
    wait_until(lambda: example.ui.thresholdSlider.value == 20, 1, "the default threshold")

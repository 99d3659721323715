"""Texts, packages, sample data, base classes and the interpreter for processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def test_texts_stay_as_they_are(app) -> None:
    from slicer.i18n import tr as _
    from slicer.i18n import translate

    assert _("{count} findings").format(count=3) == "3 findings"
    assert translate("qSlicerAbstractCoreModule", "Segmentation") == "Segmentation"


def test_requirements_are_read_without_comments_and_options(app, tmp_path: Path) -> None:
    from slicer.packaging import load_requirements

    path = tmp_path / "requirements.txt"
    path.write_text("# what is needed\n-r other.txt\n\ntorch>=2.4,!=2.12.*\nnumpy\n")
    assert [item.name for item in load_requirements(path)] == ["torch", "numpy"]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("numpy>=1", True),
        ("numpy>=99", False),
        ("no-such-package-of-anyone", False),
        ("no-such-package-of-anyone; python_version < '3'", True),
        ("pytest[dev]", None),
    ],
)
def test_packages_are_checked_by_their_metadata(app, requirement: str, expected) -> None:
    from packaging.requirements import Requirement
    from slicer.packaging import pip_check

    checked = pip_check(Requirement(requirement))
    assert isinstance(checked, bool)
    if expected is not None:
        assert checked is expected


@pytest.fixture
def testing(app):
    """The application as Slicer's own test runs start it."""
    app.setTestingEnabled(True)
    yield
    app.setTestingEnabled(False)


def test_a_test_installs_nothing(testing) -> None:
    from packaging.requirements import Requirement
    from slicer.packaging import pip_check, pip_ensure

    missing = Requirement("no-such-package-of-anyone")
    pip_ensure([missing])
    assert not pip_check(missing)


def test_our_own_stand_in_refuses_to_install(app) -> None:
    from Harness.replacements import packaging

    with pytest.raises(RuntimeError, match="would install"):
        packaging.pip_ensure(["no-such-package-of-anyone"], skip_in_testing=False)
    with pytest.raises(RuntimeError, match="would install"):
        packaging.pip_install("numpy")
    with pytest.raises(RuntimeError, match="would remove"):
        packaging.pip_uninstall("numpy")
    assert not packaging.isPipInstallInProgress()


@pytest.fixture
def sample_data(scene, monkeypatch):
    import SampleData
    import slicer

    monkeypatch.setattr(slicer.modules, "sampleDataSources", {}, raising=False)
    return SampleData


def _register(sample_data, **more) -> None:
    sample_data.SampleDataLogic.registerCustomSampleDataSource(
        category="Ours",
        sampleName="Phantom",
        uris="https://example.invalid/p",
        fileNames="p.nrrd",
        nodeNames="p",
        **more,
    )


def test_sample_data_are_registered_once(sample_data) -> None:
    _register(sample_data)
    _register(sample_data)
    (source,) = sample_data.SampleDataLogic.sampleDataSourcesByCategory("Ours")
    assert (source.sampleName, source.uris) == ("Phantom", ["https://example.invalid/p"])


def test_a_click_runs_the_custom_downloader_but_a_download_does_not(sample_data) -> None:
    import slicer

    def make(source):
        return slicer.util.addVolumeFromArray(np.zeros((2, 2, 2)), name=source.sampleName)

    _register(sample_data, customDownloader=make)
    assert sample_data.click_sample("Phantom").GetName() == "Phantom"
    with pytest.raises(RuntimeError, match="click_sample"):
        sample_data.downloadSample("Phantom")
    with pytest.raises(KeyError, match="Fantom"):
        sample_data.click_sample("Fantom")


def test_sample_data_need_as_many_names_as_uris(sample_data) -> None:
    with pytest.raises(ValueError, match="same length"):
        sample_data.SampleDataLogic.registerCustomSampleDataSource(
            uris=["a", "b"], fileNames=["a.nrrd"], nodeNames=["a", "b"]
        )


def test_a_logic_has_one_parameter_node_of_its_module(scene) -> None:
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class OursLogic(ScriptedLoadableModuleLogic):
        pass

    node = OursLogic().getParameterNode()
    assert OursLogic().getParameterNode() is node
    assert node.GetAttribute("ModuleName") == "Ours"
    scene.Clear(False)
    assert OursLogic().getParameterNode().GetAttribute("ModuleName") == "Ours"
    several = OursLogic()
    several.isSingletonParameterNode = False
    assert several.getAllParameterNodes()[0].GetAttribute("ModuleName") == "Ours"


def test_a_module_without_a_test_class_fails_its_test(app) -> None:
    import slicer
    from slicer.ScriptedLoadableModule import ScriptedLoadableModule

    class Untested(ScriptedLoadableModule):
        pass

    module = Untested(slicer.qSlicerScriptedLoadableModule("Untested", __file__))
    with pytest.raises(AssertionError, match="UntestedTest"):
        module.runTest()
    assert module.resourcePath("UI/x.ui") == str(Path(__file__).parent / "Resources/UI/x.ui")


def test_processes_run_this_interpreter(app) -> None:
    import shutil

    code = "import sys, numpy; print(sys.prefix)"
    found = shutil.which("PythonSlicer")
    done = subprocess.run([found, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sys.prefix


def test_messages_are_logged_in_tests_and_wait_else(testing, app, caplog) -> None:
    import slicer

    with caplog.at_level("INFO"):
        slicer.util.infoDisplay("all is well")
    assert "all is well" in caplog.text
    app.setTestingEnabled(False)
    with pytest.raises(RuntimeError, match="wait for ever"):
        slicer.util.infoDisplay("all is well")


def test_quitting_is_told(app) -> None:
    heard = []
    assert app.connect("aboutToQuit()", lambda: heard.append(1))
    app.aboutToQuit.emit()
    app.aboutToQuit.disconnect()
    assert heard == [1]
    with pytest.raises(RuntimeError, match="restart"):
        app.restart()
    with pytest.raises(RuntimeError, match="end Slicer"):
        app.exit(0)


def test_there_may_be_no_main_window(app) -> None:
    import slicer
    from Harness import without_main_window

    assert slicer.util.mainWindow().className() == "QMainWindow"
    with without_main_window():
        assert slicer.util.mainWindow() is None
        assert app.layoutManager() is None
    assert app.layoutManager() is not None


def test_folders_are_those_given(app) -> None:
    import slicer

    folder = Path(app.temporaryPath)
    assert folder.is_dir()
    assert Path(slicer.util.tempDirectory()).is_relative_to(folder)
    with pytest.raises(AttributeError, match="not writable"):
        app.temporaryPath = "/tmp"

"""The section *Set-up*: what it shows, what it asks, and where a missing package leads."""

import os
import sys
from subprocess import CalledProcessError

import pytest
from Harness import load_scripted_module, run_events, settings_after_restart, wait_until
from service.wheel_examples import GOOD
from slicerapp.conftest import MODULE
from slicerapp.dialogs import make_answers
from slicerapp.setup.test_installation import FakeWorker
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.service.setup.packages import names


def made_up(table):
    """`SitePackages` of a table that the test writes."""
    from SpatialARAnomalyLib.slicerapp.setup.Installation import SitePackages

    class MadeUp(SitePackages):
        def versions(self, packages=()):
            return dict(table)

    return MadeUp()


class Extension:
    """A PyTorch extension that installs at once, or not."""

    def __init__(self, table):
        self.table, self.there, self.can, self.works = table, True, True, True

    def isThere(self):
        return self.there

    def canBeInstalled(self):
        return self.can

    def install(self):
        return self.works

    def installTorch(self, requirement):
        if not self.works:
            raise RuntimeError("the index is gone, " + os.environ["PIP_CONSTRAINT"])
        self.table["torch"] = "2.11.0"


class Packaging:
    """Slicer's packaging; `meanwhile` is done while its dialog processes events."""

    def __init__(self, table):
        self.table, self.asked, self.works = table, [], True
        self.meanwhile = lambda: None

    def pip_ensure(self, requirements, **more):
        self.asked.append(list(requirements))
        print("Collecting things")
        self.meanwhile()
        if not self.works:
            raise CalledProcessError(1, "pip install")
        self.table |= {name: GOOD[name] for name in names(requirements)}

    def pip_uninstall(self, requirements):
        for name in requirements:
            self.table.pop(name, None)

    def isPipInstallInProgress(self):
        return False


class Bench:
    """The panel's widgets over made-up packages; `dialogs` answers its questions."""

    def __init__(self, module, table):
        from SpatialARAnomalyLib.slicerapp.panels.SetupPanel import SetupPanel
        from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies

        module.widget.panel.setup.cleanup()
        self.ui, self.table, site = module.ui, table, made_up(table)
        self.worker = FakeWorker(site)
        self.extension, self.packaging = Extension(table), Packaging(table)
        self.dialogs = make_answers()
        self.dialogs.yes = []
        self.dependencies = Dependencies(
            self.worker,
            extension=self.extension,
            packaging=self.packaging,
            site=site,
            freeBytes=lambda: 10**12,
            nameTorchProblem=lambda: "",
        )
        self.panel = module.widget.panel.setup = SetupPanel(
            self.ui, self.dependencies, self.dialogs
        )
        self.module = module

    @property
    def status(self):
        return self.ui.setupStatusLabel.text

    def cell(self, row, column):
        return self.ui.setupTable.item(row, column).text()

    def rows(self):
        return {
            self.cell(row, 0): (self.cell(row, 1), self.cell(row, 2))
            for row in range(self.ui.setupTable.rowCount)
        }

    def wait(self):
        """Until the panel has been painted and what it then does has ended."""
        wait_until(lambda: self.ui.setupCheckButton.isEnabled(), 20, "the end")
        run_events()


@pytest.fixture
def bench(opened):
    """Makes the panel over made-up packages: all that are needed but those named."""

    def make(*missing, **changed):
        return Bench(opened, {n: v for n, v in GOOD.items() if n not in missing} | changed)

    return make


def test_what_is_needed_and_found_is_shown_before_and_after_a_trial(bench):
    at = bench("typer", torch="2.12.0")
    assert at.rows()["rich"] == ("15.0", "installed")
    assert at.rows()["typer"] == ("–", "missing")
    assert [at.cell(row, 0) for row in (0, 1)] == ["torch", "typer"]  # what lacks comes first
    assert at.worker.told == []  # nothing was tried at opening
    at.worker.errors = {"transformers": "ImportError: no"}
    at.ui.setupCheckButton.click()
    assert at.worker.told == ["probe"]
    assert at.rows()["rich"] == ("15.0", "works")
    assert at.rows()["torch"] == ("2.12.0", "other version")
    assert at.rows()["transformers"] == ("5.23.0", "cannot be loaded")
    assert at.ui.setupStateLabel.text == (
        "3 of 14 packages cannot be used yet: torch, transformers, typer."
    )


def test_the_section_opens_by_itself_once_where_something_is_missing(bench):
    at = bench()
    at.panel.enter()
    assert at.ui.setupSection.collapsed
    at = bench("rich")
    at.panel.enter()
    assert not at.ui.setupSection.collapsed
    at.ui.setupSection.collapsed = True
    at.panel.enter()
    assert at.ui.setupSection.collapsed
    assert at.worker.told == []


def test_what_cannot_be_clicked_says_why(bench):
    at = bench()
    assert not at.ui.setupInstallButton.isEnabled()
    assert tip(at.ui.setupInstallButton) == "Everything is installed."
    assert "Click Check first" in at.ui.setupRepairButton.toolTip
    at.ui.setupCheckButton.click()
    assert tip(at.ui.setupRepairButton) == "There is nothing to repair."
    at.dependencies._isBusy = lambda: True
    at.panel.refresh()
    assert "running task" in at.ui.setupFolderButton.toolTip
    at.dependencies._isBusy = lambda: False
    at.dependencies._nameTorchProblem = lambda: "No PyTorch for this computer."
    at.panel.refresh()
    assert tip(at.ui.setupFolderButton) == "No PyTorch for this computer."
    assert "No PyTorch for this computer." in at.ui.setupStateLabel.text


def test_one_question_and_nothing_without_a_yes(bench):
    at = bench("torch", "typer")
    at.dialogs.yes = [False]
    at.ui.setupInstallButton.click()
    assert len(at.dialogs.questions) == 1
    assert "torch>=2.4,!=2.12.*, typer>=0.15" in at.dialogs.questions[0]
    assert at.status == "Nothing was installed."
    assert at.packaging.asked == []
    assert at.worker.told == ["probe"]
    at.dependencies._freeBytes = lambda: 10**8
    at.ui.setupInstallButton.click()
    assert len(at.dialogs.questions) == 1
    assert "Free disk space first" in at.status


def test_an_installation_is_shown_and_ends_with_a_trial(bench):
    at = bench("torch", "typer")
    at.dialogs.yes, checked = [True], []

    def check_working():
        checked.append(1)
        at.panel.refresh()
        for button in ("Install", "Folder", "Repair", "Check"):
            widget = getattr(at.ui, f"setup{button}Button")
            assert not widget.isEnabled()
            assert "being installed" in widget.toolTip
        assert at.ui.setupProgressBar.isVisibleTo(at.module.panel) or at.ui.setupSection.collapsed
        assert at.worker.told == ["probe", "hold"][: len(checked)]

    at.ui.setupInstallButton.click()
    check_working()  # while the panel is painted
    at.packaging.meanwhile = check_working
    at.wait()
    assert len(checked) == 2
    assert at.packaging.asked == [["typer>=0.15"]]
    assert at.table["torch"] == "2.11.0"  # through the extension
    assert at.status == "Everything is installed and works."
    assert at.worker.told == ["probe", "hold", "release", "probe"]
    assert "Collecting things" in at.ui.setupLogText.toPlainText()
    assert at.rows()["typer"] == ("0.29", "works")
    assert (len(at.dialogs.questions), at.dialogs.restarts) == (1, 0)


def test_an_installation_goes_on_unheard_when_the_module_is_unloaded(bench):
    at = bench("typer")
    at.dialogs.yes = [True]
    told = []

    def unload():
        at.panel.cleanup()
        told.append(at.ui.setupLogText.toPlainText())

    at.packaging.meanwhile = unload
    at.ui.setupInstallButton.click()
    wait_until(lambda: at.table.get("typer") == "0.29", 20, "the installation")
    assert at.worker.told[-2:] == ["release", "probe"]
    assert at.ui.setupLogText.toPlainText() == told[0]
    at.module.widget.panel.setup = at.panel = type(at.panel)(at.ui, at.dependencies, at.dialogs)


def test_a_failure_is_told_once_and_can_be_repeated(bench):
    import slicer

    at = bench("typer")
    at.dialogs.yes = [True, True]
    at.packaging.works = False
    at.ui.setupInstallButton.click()
    at.wait()
    assert at.status.startswith("⚠ pip could not install the packages.")
    assert at.ui.setupInstallButton.isEnabled()
    at.packaging.works = True
    at.ui.setupInstallButton.click()
    at.wait()
    assert at.status == "Everything is installed and works."
    at = bench("torch", "typer")
    at.extension.works, at.dialogs.yes = False, [True]
    at.ui.setupInstallButton.click()
    at.wait()
    assert "could not install PyTorch" in at.status
    assert at.packaging.asked == []
    assert slicer.app.temporaryPath not in at.ui.setupLogText.toPlainText()


def test_without_the_extension_it_comes_first_and_is_remembered_over_the_restart(bench):
    from SpatialARAnomalyLib.slicerapp import Settings

    at = bench("torch")
    at.extension.there, at.dialogs.yes = False, [True, False]
    at.ui.setupInstallButton.click()
    at.wait()
    assert "then Slicer restarts" in at.dialogs.questions[0]
    assert "Restart Slicer now?" in at.dialogs.questions[1]
    assert at.dialogs.restarts == 0
    assert at.status == "Restart Slicer, then click Install… to continue."
    assert settings_after_restart().value("SpatialARAnomaly/InstallPending") == "yes"
    again = bench("torch")
    again.panel.enter()
    assert not again.ui.setupSection.collapsed
    assert again.status == "The PyTorch extension is installed. Click Install… to continue."
    assert again.worker.told == []
    assert not Settings.installPending()
    at = bench("torch")
    at.extension.there, at.dialogs.yes = False, [True, True]
    at.ui.setupInstallButton.click()
    at.wait()
    assert at.dialogs.restarts == 1


def test_an_extension_that_cannot_be_had_is_told(bench):
    at = bench("torch")
    at.extension.there, at.extension.works, at.dialogs.yes = False, False, [True]
    at.ui.setupInstallButton.click()
    at.wait()
    assert "could not be installed" in at.status
    at.extension.can = False
    at.ui.setupInstallButton.click()
    assert "which this Slicer cannot install" in at.status
    assert len(at.dialogs.questions) == 1


def test_a_repair_asks_for_a_restart(bench):
    at = bench(torchvision="0.20")
    at.worker.errors = {"torch": "ImportError: libtorch.so"}
    at.ui.setupCheckButton.click()
    assert at.ui.setupRepairButton.isEnabled()
    at.dialogs.yes = [True, True]
    at.ui.setupRepairButton.click()
    at.worker.errors = {}
    at.wait()
    assert "removed first" in at.dialogs.questions[0]
    assert "torchvision" not in at.table
    assert at.table["torch"] == "2.11.0"
    assert "old PyTorch in memory" in at.dialogs.questions[1]
    assert at.dialogs.restarts == 1


def test_a_kit_is_verified_asked_about_and_installed_with_its_weights(bench, tmp_path):
    from SpatialARAnomalyLib.service.setup.packages import REQUIREMENTS

    at, seen = bench("typer"), {}
    said = {"requirements": list(REQUIREMENTS), "encoders": ["owner/vit"], "size_bytes": 1}
    submit = at.worker.submit

    def answer(job, *, onEnd, **more):
        if not job.startswith("kit"):
            return submit(job, onEnd=onEnd, **more)
        at.worker.told.append(job)
        assert more["inputs"] == {"kit": str(tmp_path)}
        onEnd({"event": "result"} | said)
        return 1

    at.worker.submit = answer
    at.ui.setupFolderButton.click()
    assert at.worker.told == []  # no folder was chosen
    at.dialogs.path, at.dialogs.yes = str(tmp_path), [True]
    at.ui.setupFolderButton.click()
    assert "owner/vit (DINOv3 License" in at.dialogs.questions[0]
    at.packaging.meanwhile = lambda: seen.update(os.environ)
    at.wait()
    assert at.packaging.asked == [["typer>=0.15"]]
    assert seen["PIP_FIND_LINKS"] == (tmp_path / "wheels").as_uri()
    assert seen["PIP_NO_INDEX"] == "1"
    assert at.worker.told == ["kit_verify", "hold", "release", "probe", "kit_weights"]
    assert at.status == "Everything is installed, with the weights owner/vit."
    at.dialogs.yes = [False]
    at.ui.setupFolderButton.click()
    assert "All packages are installed" in at.dialogs.questions[-1]
    assert at.status == "Nothing was installed."


def test_a_bad_kit_is_refused_by_the_real_worker(opened, dialogs, tmp_path):
    panel = opened.widget.panel.setup
    dialogs.path = tmp_path
    opened.ui.setupFolderButton.click()
    wait_until(lambda: not panel.dependencies.checking, 120, "the check of the kit")
    assert "holds no offline kit" in opened.ui.setupStatusLabel.text


@pytest.mark.slow
def test_the_real_packages_work_and_diagnostics_name_no_place(opened, app):
    from pathlib import Path

    from SpatialARAnomalyLib.slicerapp import Settings

    Settings.setModelsFolder(Path("/secret/Müller"))
    opened.ui.setupCheckButton.click()
    dependencies = opened.widget.panel.setup.dependencies
    wait_until(lambda: not dependencies.checking, 240, "the trial of the packages")
    assert opened.ui.setupStateLabel.text == "Everything is installed and works."
    assert "cpu:" in opened.ui.setupDevicesLabel.text
    opened.ui.setupCopyButton.click()
    text = app.clipboard().text()
    assert f"Slicer {app.applicationVersion}" in text
    assert "torch" in text
    for place in ("/secret", "Müller", str(Path.home()), sys.prefix):
        assert place not in text


def test_a_package_that_a_detection_lacks_leads_to_the_setup(bench):
    from SpatialARAnomalyLib.engine.errors import SpatialARError
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome

    at = bench("torch")
    detect = at.module.widget.panel.detect
    assert detect.onMissingPackage.__self__ is not None
    detect.onMissingPackage = at.panel.open
    detect.reportEnd(Outcome(error=SpatialARError("torch-missing", "PyTorch is missing.")), "")
    assert not at.ui.setupSection.collapsed
    assert "Click 'Install…' under 'Set-up'" in at.ui.statusLabel.text
    assert at.worker.told == ["probe"]
    detect.reportEnd(Outcome(error=SpatialARError("out-of-memory", "Too little.")), "")
    assert at.worker.told == ["probe"]


def test_another_python_computes_if_the_user_says_so(bench):
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import (
        pythonSlicer,
        workerPython,
    )

    at = bench("torch")
    assert workerPython() == pythonSlicer()
    at.ui.setupPythonEdit.currentPath = "/opt/other/python"
    assert workerPython() == Settings.workerPython() == "/opt/other/python"
    assert at.worker.told == ["restartWhenIdle"]
    assert "Another Python is chosen below." in at.ui.setupInstallButton.toolTip
    assert at.ui.setupStateLabel.text == "Another Python is used. Click Check to test it."
    at.ui.setupPythonEdit.currentPath = ""
    assert workerPython() == pythonSlicer()


def test_settings_are_remembered_for_new_scenes_and_a_scene_s_own_win(
    opened, scene, tmp_path, monkeypatch
):
    import slicer
    from SpatialARAnomalyLib.slicerapp import Settings

    parameters = opened.widget.panel._parameters
    parameters.falsePositiveRate = 0.02
    parameters.overlayOpacity = 0.25
    path = tmp_path / "scene.mrml"
    assert slicer.util.saveScene(str(path))
    parameters.falsePositiveRate = 0.005
    parameters.overlayOpacity = 0.75
    assert (Settings.remembered("falsePositiveRate"), Settings.remembered("overlayOpacity")) == (
        0.005,
        0.75,
    )
    # A new scene begins with them, also after a restart of Slicer.
    restarted = settings_after_restart()
    assert float(restarted.value("SpatialARAnomaly/FalsePositiveRate")) == 0.005
    opened.unload()
    scene.Clear(0)
    again = load_scripted_module(MODULE, startup=False)
    monkeypatch.setattr(sys.modules["SpatialARAnomaly"], "stopSharedWorker", lambda: None)
    again.enter()
    parameters = again.widget.panel._parameters
    assert (parameters.falsePositiveRate, parameters.overlayOpacity) == (0.005, 0.75)
    assert again.ui.opacitySlider.value == 0.75
    # A saved scene has its own, which do not become the user's.
    scene.Clear(0)
    slicer.util.loadScene(str(path))
    run_events()
    parameters = again.widget.panel._parameters
    assert (parameters.falsePositiveRate, parameters.overlayOpacity) == (0.02, 0.25)
    assert (Settings.remembered("falsePositiveRate"), Settings.remembered("overlayOpacity")) == (
        0.005,
        0.75,
    )


@pytest.mark.parametrize("odd", ["", "much", "7", "nan"])
def test_odd_settings_are_passed_over(odd, settings, scene):
    settings.setValue("SpatialARAnomaly/FalsePositiveRate", odd)
    module = load_scripted_module(MODULE, startup=False)
    try:
        module.enter()
        assert module.widget.panel._parameters.falsePositiveRate == 0.001
    finally:
        module.unload()


def test_a_button_that_waits_for_a_task_can_be_clicked_once_that_has_ended(bench):
    at = bench("torch")
    at.worker.busy = True
    at.ui.setupSection.setProperty("collapsed", False)
    at.panel.refresh()
    assert "Wait for the running task" in at.ui.setupFolderButton.toolTip
    run_events(0.1)
    at.worker.busy = False
    wait_until(at.ui.setupFolderButton.isEnabled, 5, "the button")
    assert at.ui.setupInstallButton.isEnabled()


def test_a_task_begun_after_the_button_was_enabled_is_respected(bench):
    at = bench("torch")
    assert at.ui.setupInstallButton.isEnabled()
    at.worker.busy = True
    at.dialogs.path = "/a/kit"
    for button in (at.ui.setupInstallButton, at.ui.setupFolderButton):
        button.setEnabled(True)
        button.click()
        assert at.status.startswith("⚠ Wait for the running task")
        assert not button.isEnabled()
    assert at.worker.told == []
    assert at.dialogs.questions == []

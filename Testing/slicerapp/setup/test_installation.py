"""Installations into a throw-away Python change none of the packages that Slicer brings.

With SLICER_PYTHON_DIR they use Slicer's own `packaging`, else the harness' replacement.
"""

import importlib.metadata
import os
import subprocess
import sys
import threading
from subprocess import CalledProcessError

import pytest
from Harness import wait_until
from service.wheel_examples import BROUGHT, GOOD, ThrowAwayPython, make_index, make_wheel, use_index
from SpatialARAnomalyLib.service.setup.packages import REQUIREMENTS

WAIT_S = 120

# Slicer's `executePythonModule` does not close its pipe.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*unclosed file:ResourceWarning",
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning",
)


class FakeWorker:
    """Answers a probe with what is in the throw-away Python, or with `probe_ends`."""

    def __init__(self, site):
        self.site, self.busy, self.told = site, False, []
        self.errors = {}
        self.probe_ends = None

    def submit(self, job, *, onEnd, **more):
        self.told.append(job)
        versions = self.site.versions()
        probe = {"python": "3.12", "platform": "x", "devices": []}
        probe |= {"packages": versions, "import_errors": dict(self.errors)}
        onEnd(self.probe_ends or {"event": "result"} | probe)
        return 1

    def hold(self, reason):
        self.told.append("hold")

    def release(self):
        self.told.append("release")

    def stop(self):
        self.told.append("stop")

    def restartWhenIdle(self):
        self.told.append("restartWhenIdle")


class FakeExtension:
    """Slicer's PyTorch extension: installs by a pip that it starts itself."""

    def __init__(self, python):
        self.python, self.there, self.environment = python, True, {}

    def isThere(self):
        return self.there

    def canBeInstalled(self):
        return True

    def install(self):
        return True

    def installTorch(self, requirement):
        done = subprocess.run(
            [*self.python.pip, "install", f"torch{requirement}", "torchvision"],
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, done.stderr)
        done.check_returncode()


class Setting:
    """A Slicer with throw-away packages."""

    def __init__(self, app, folder, monkeypatch):
        import slicer
        from SpatialARAnomalyLib.service.setup.packages import PackageState, check_packages
        from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies
        from SpatialARAnomalyLib.slicerapp.setup.Installation import SitePackages

        self.python = ThrowAwayPython(folder)
        self.python.put_python_slicer_on_path(folder / "bin dir", monkeypatch)
        self.index = make_index(folder / "index é")
        make_wheel(self.index, "torchvision", "0.26.0", "torch")
        use_index(self.index, monkeypatch)
        monkeypatch.setattr(slicer.packaging, "pip_of_the_test", True, raising=False)
        self.site = SitePackages((str(self.python.site_packages),))

        def is_there(requirement):
            (check,) = check_packages(self.site.versions(), requirements=[str(requirement)])
            return check.state is PackageState.READY

        # Slicer's own looks into the Python that runs it.
        monkeypatch.setattr(slicer.packaging, "pip_check", is_there)
        self.worker = FakeWorker(self.site)
        self.extension = FakeExtension(self.python)
        self.dependencies = Dependencies(
            self.worker, extension=self.extension, site=self.site, freeBytes=lambda: 10**12
        )
        self.log = []

    def have(self, **versions):
        """Have these installed already, of packages by module name."""
        for name, version in versions.items():
            wheel = make_wheel(self.index / "old", name.replace("_", "-"), version)
            self.python.put(wheel)

    def have_all_but(self, *missing):
        self.have(
            **{
                name.replace("-", "_"): version
                for name, version in GOOD.items()
                if name not in missing
            }
        )

    def install(self, plan=None):
        """The outcome of an installation of what is missing."""
        outcomes = []
        self.dependencies.check(lambda error: None)
        plan = plan or self.dependencies.plan()
        self.dependencies.install(plan, self.log.append, outcomes.append)
        (outcome,) = outcomes
        assert not self.dependencies.installing
        assert self.worker.told[-2:] == ["release", "probe"]
        return outcome

    def words(self, outcome):
        from SpatialARAnomalyLib.slicerapp.panels.SetupPanel import outcomeText

        return outcomeText(outcome, self.dependencies.missing())

    def brought(self):
        """What Slicer brought, as it is now."""
        versions = self.site.versions()
        return {name: versions.get(name) for name in BROUGHT}


@pytest.fixture
def setting(app, settings, tmp_path, monkeypatch):
    yield Setting(app, tmp_path, monkeypatch)
    app.setTestingEnabled(True)


@pytest.fixture(params=["as in tests", "as for users"])
def mode(request, app):
    """Slicer's packaging installs without a dialog, or with one that processes events."""
    app.setTestingEnabled(request.param == "as in tests")


def test_all_is_installed_and_what_slicer_brings_stays(setting, mode):
    before = setting.site.versions()
    outcome = setting.install()
    assert outcome.error is None, setting.log
    after = setting.site.versions()
    assert after == before | GOOD | {"torchvision": "0.26.0"}
    assert setting.brought() == BROUGHT
    assert (outcome.changed, outcome.restart) == ({}, False)
    assert set(outcome.added) == set(after) - set(before)
    assert setting.words(outcome) == "Everything is installed and works."
    assert setting.dependencies.plan() is None
    assert setting.worker.told == ["probe", "hold", "release", "probe"]
    assert "PIP_CONSTRAINT" not in os.environ


def test_a_package_that_wants_another_numpy_is_refused(setting, app):
    """Packages installed before it stay, and are reported."""
    app.setTestingEnabled(False)
    make_index(setting.index, transformers=("numpy<2",))
    outcome = setting.install()
    assert outcome.error.code == "pip-conflict", setting.log
    assert setting.brought() == BROUGHT
    assert outcome.added == ("torch", "torchvision")
    assert "transformers" not in setting.site.versions()
    words = setting.words(outcome)
    assert "Installed in part: torch, torchvision. Still missing:" in words
    assert "transformers" in words


def test_a_torch_that_wants_another_setuptools_is_refused(setting):
    """The extension's own pip is held to the constraints as well, wherever their file lies."""
    make_index(setting.index, torch=("setuptools<82",))
    outcome = setting.install()
    assert "could not install PyTorch" in outcome.error.message
    assert setting.brought() == BROUGHT
    assert outcome.added == ()
    assert outcome.error.code == "pip-conflict", setting.log


def test_a_package_missing_in_the_index_changes_nothing(setting, mode):
    setting.have_all_but("scikit-image", "typer")
    for wheel in setting.index.glob("scikit_image*"):
        wheel.unlink()
    before = setting.site.versions()
    outcome = setting.install()
    assert outcome.error is not None
    assert setting.site.versions() == before
    assert setting.words(outcome).endswith("Nothing was changed.")


def test_source_packages_are_refused(setting):
    setting.have_all_but("rich")
    for wheel in setting.index.glob("rich*"):
        wheel.unlink()
    (setting.index / "rich-15.0.tar.gz").write_bytes(b"anything")
    outcome = setting.install()
    assert outcome.error is not None
    assert "rich" not in setting.site.versions()


def test_a_half_installed_torch_is_removed_and_installed_again(setting, app):
    app.setTestingEnabled(False)
    setting.have_all_but()
    setting.have(torchvision="0.20")
    setting.worker.errors = {"torch": "ImportError: libtorch.so"}
    setting.dependencies.check(lambda error: None)
    assert setting.dependencies.torchIsBroken()
    plan = setting.dependencies.plan()
    assert plan.repair
    assert plan.requirements == (REQUIREMENTS[0],)
    (setting.python.site_packages / "torch" / "__init__.py").unlink()
    outcomes = []
    setting.dependencies.install(plan, setting.log.append, outcomes.append)
    assert outcomes[0].error is None, setting.log
    assert outcomes[0].restart
    assert (setting.python.site_packages / "torch" / "__init__.py").is_file()
    versions = setting.site.versions()
    assert (versions["torch"], versions["torchvision"]) == ("2.11.0", "0.26.0")
    assert any("Uninstalling torch" in line or "Removing" in line for line in setting.log)


def test_a_torch_that_ends_the_probe_is_broken(setting):
    setting.have_all_but()
    setting.worker.probe_ends = {"event": "failed", "code": "worker-died", "text": "It crashed."}
    heard = []
    setting.dependencies.check(heard.append)
    assert heard[0].code == "worker-died"
    assert setting.dependencies.torchIsBroken()
    assert setting.dependencies.plan().repair


def test_a_kit_is_installed_without_the_index(setting, tmp_path, monkeypatch):
    kit = tmp_path / "kit"
    make_index(kit / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri())
    setting.dependencies.check(lambda error: None)
    plan = setting.dependencies.kitPlan(kit, list(REQUIREMENTS))
    assert plan.requirements == REQUIREMENTS
    outcome = setting.install(plan)
    assert outcome.error is None, setting.log
    assert setting.site.versions() == BROUGHT | GOOD
    assert setting.dependencies.kitPlan(kit, list(REQUIREMENTS)) is None


class Rogue:
    """A pip that replaces numpy, and says that the index cannot be reached."""

    def __init__(self, setting):
        self.setting = setting

    def pip_ensure(self, requirements, **more):
        self.setting.have(numpy="1.26.4")
        for old in self.setting.python.site_packages.glob("numpy-2*"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        print("ProxyError('Cannot connect')\nERROR: No matching distribution", end="\n")
        raise CalledProcessError(1, "pip install")

    def pip_uninstall(self, requirements, **more):
        raise NotImplementedError

    def isPipInstallInProgress(self):
        return False


def test_a_change_of_a_held_package_is_reported(setting):
    setting.have_all_but("typer")
    setting.dependencies._packaging = Rogue(setting)
    outcome = setting.install()
    assert outcome.changed == {"numpy": ("2.4.6", "1.26.4")}
    assert outcome.error.code == "pip-network"
    assert "ProxyError('Cannot connect')" in setting.log
    words = setting.words(outcome)
    assert "numpy 2.4.6 → 1.26.4" in words
    assert "Reinstall Slicer" in words


def test_environment_variables_are_restored(setting, monkeypatch):
    monkeypatch.setenv("PIP_CONSTRAINT", "the site's own")
    setting.have_all_but("typer")
    seen = {}

    class Watch(Rogue):
        def pip_ensure(self, requirements, **more):
            seen.update(os.environ, requirements=requirements, **more)
            other = threading.Thread(target=print, args=("of another thread",))
            other.start()
            other.join()

    setting.dependencies._packaging = Watch(setting)
    outcome = setting.install()
    assert (outcome.error, outcome.changed, outcome.added) == (None, {}, ())
    assert seen["requirements"] == ["typer>=0.15"]
    assert not any("another thread" in line for line in setting.log)
    # The user is asked once, by us; Slicer asks only where something it has in memory changed.
    assert (seen["prompt_install"], seen["prompt_restart"]) == (False, True)
    assert seen["PIP_ONLY_BINARY"] == ":all:"
    assert " " not in seen["PIP_CONSTRAINT"]
    assert os.environ["PIP_CONSTRAINT"] == "the site's own"
    assert "PIP_ONLY_BINARY" not in os.environ


def test_an_installation_is_refused_while_packages_are_in_use(setting, monkeypatch):
    from SpatialARAnomalyLib.engine.errors import SetupError

    dependencies = setting.dependencies
    setting.worker.busy = True
    assert "running task" in dependencies.nameInstallProblem()
    with pytest.raises(SetupError, match="running task"):
        dependencies.install(dependencies.plan(), setting.log.append, setting.log.append)
    assert setting.worker.told == []
    setting.worker.busy = False
    dependencies._isBusy = lambda: True
    assert "running task" in dependencies.nameInstallProblem()
    dependencies._isBusy = lambda: False
    dependencies._packaging = Rogue(setting)
    monkeypatch.setattr(Rogue, "isPipInstallInProgress", lambda self: True)
    with pytest.raises(SetupError, match="Another module is installing"):
        dependencies.install(dependencies.plan(), setting.log.append, setting.log.append)
    assert setting.worker.told == ["hold", "release"]
    assert not dependencies.installing
    dependencies._nameTorchProblem = lambda: "No PyTorch for this computer."
    assert dependencies.nameInstallProblem() == "No PyTorch for this computer."


def test_the_question_names_packages_and_sizes(setting, monkeypatch):
    from SpatialARAnomalyLib.slicerapp.setup import Dependencies as module

    setting.have_all_but("torch", "typer")
    dependencies = setting.dependencies
    monkeypatch.setattr(module, "has_nvidia_driver", lambda: True)
    plan = dependencies.plan()
    question = dependencies.question(plan)
    assert "torch>=2.4,!=2.12.*, typer>=0.15" in question
    assert "3 GB are downloaded" in question
    assert "1,000 GB are free" in question
    assert "The PyTorch extension installs PyTorch" in question
    assert "not changed" in question
    assert "restarts" not in question
    setting.extension.there = False
    assert "then Slicer restarts" in dependencies.question(plan)
    assert dependencies.nameDiskProblem(plan) is None
    dependencies._freeBytes = lambda: 10**9
    assert "10.5 GB of disk are needed; 1 GB are free" in dependencies.nameDiskProblem(plan)


def test_jobs_fail_with_the_reason_while_packages_are_installed(app, settings):
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker, ends = WorkerProcess(), []
    worker.hold("Packages are being installed.")
    worker.submit("probe", onEnd=ends.append)
    assert not worker.running
    wait_until(lambda: ends, 10, "the end of the job")
    assert (ends[0]["code"], ends[0]["text"]) == ("worker-held", "Packages are being installed.")
    worker.release()
    worker.submit("probe", onEnd=ends.append)
    assert worker.running
    worker.stop()
    assert ends[1]["event"] == "cancelled"


def test_the_extension_is_called_with_its_parameters(app, monkeypatch):
    """`PyTorchUtils` of the PyTorch extension, and Slicer's Extensions Manager."""
    import types

    from SpatialARAnomalyLib.slicerapp.setup.Installation import PyTorchExtension

    extension = PyTorchExtension()
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert not extension.isThere()
    called = []

    class PyTorchUtilsLogic:
        def installTorch(
            self,
            askConfirmation=False,
            forceComputationBackend=None,
            torchVersionRequirement=None,
            torchvisionVersionRequirement=None,
        ):
            called.append((askConfirmation, torchVersionRequirement))

    fake = types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", fake)
    assert extension.isThere()
    extension.installTorch(">=2.4,!=2.12.*")
    assert called == [(False, ">=2.4,!=2.12.*")]

    class Manager:
        interactive = True

        def installExtensionFromServer(self, name, restart=True, update=False):
            called.append((name, restart, self.interactive))
            return True

    assert not extension.canBeInstalled()
    assert not extension.install()
    manager = Manager()
    monkeypatch.setattr(type(app), "extensionsManagerModel", lambda self: manager, raising=False)
    assert extension.canBeInstalled()
    assert extension.install()
    assert called[-1] == ("PyTorch", False, False)
    assert manager.interactive


def test_this_python_is_unchanged():
    assert importlib.metadata.version("numpy") != "1.26.4"

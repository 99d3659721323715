"""The section *Set-up*: state of the Python packages, installation and repair."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.setup.packages import PackageCheck, PackageState
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    disclose,
    doNothing,
    enable,
    fillTable,
    pathChanges,
    pathText,
    prepareTable,
    singleShotTimer,
)
from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies
from SpatialARAnomalyLib.slicerapp.setup.Installation import InstallOutcome, InstallPlan
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.Progress import progressCallback
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event, hidePaths

READY = PackageState.READY

STATE = 2
"""Column of the package's state."""

PAINT_MS = 100
"""Milliseconds to paint the panel before Slicer stops responding."""

POLL_MS = 500
"""Milliseconds between two looks whether the packages are still in use by a task."""


def stateText(check: PackageCheck, *, tested: bool) -> str:
    """Return the state of a package in a word or two."""
    return {
        PackageState.READY: _("works") if tested else _("installed"),
        PackageState.MISSING: _("missing"),
        PackageState.OTHER_VERSION: _("other version"),
        PackageState.BROKEN: _("cannot be loaded"),
    }[check.state]


def summarize(checks: tuple[PackageCheck, ...], *, tested: bool) -> str:
    """Return a sentence about all packages."""
    missing = [one.package for one in checks if one.state is not READY]
    if missing:
        return _("{count} of {all} packages cannot be used yet: {names}.").format(
            count=len(missing), all=len(checks), names=", ".join(missing)
        )
    if tested:
        return _("Everything is installed and works.")
    return _("Everything is installed. Click Check to test it.")


def devicesText(probed: dict[str, Any] | None) -> str:
    """Return the devices of PyTorch with their memory, one per line."""
    if probed is None:
        return _("Devices: not checked yet.")
    parts = []
    for one in probed["devices"]:
        size, free = one["memory_bytes"], one["free_bytes"]
        if size is None or free is None:
            parts.append(_("{device}: {name}").format(device=one["device"], name=one["name"]))
        else:
            parts.append(
                _("{device}: {name}, {size} of memory, {free} free").format(
                    device=one["device"],
                    name=one["name"],
                    size=sizeText(size),
                    free=sizeText(free),
                )
            )
    return "\n".join(parts)


def outcomeText(outcome: InstallOutcome, missing: tuple[PackageCheck, ...]) -> str:
    """Return the outcome of an installation and what to do next."""
    sentences = []
    if outcome.changed:
        removed = _("removed")
        changes = ", ".join(
            f"{name} {before} → {after or removed}"
            for name, (before, after) in outcome.changed.items()
        )
        sentences.append(
            _(
                "⚠ Packages of Slicer were changed: {changes}. Reinstall Slicer if it does not "
                "start again, and please report this."
            ).format(changes=changes)
        )
    if outcome.error is not None:
        sentences.append("⚠ " + inOneLine(outcome.error))
    names = ", ".join(one.package for one in missing)
    if not missing:
        sentences.append(_("Everything is installed and works."))
    elif outcome.added:
        sentences.append(
            _("Installed in part: {added}. Still missing: {names}.").format(
                added=", ".join(outcome.added[:8]), names=names
            )
        )
    elif outcome.error is None:
        sentences.append(_("Still missing: {names}.").format(names=names))
    else:
        sentences.append(_("Nothing was changed."))
    if outcome.restart:
        sentences.append(_("Restart Slicer: it may have the old PyTorch in memory."))
    return " ".join(sentences)


def diagnostics(
    checks: tuple[PackageCheck, ...], probed: dict[str, Any] | None, device: str
) -> str:
    """Return versions and states for a support request, without names and paths."""
    lines = [
        f"SpatialARAnomaly in Slicer {slicer.app.applicationVersion}",
        f"Python {probed['python']}, {probed['platform']}" if probed else "not tested",
        f"device setting: {device}",
    ]
    for check in checks:
        found = check.found or "-"
        lines.append(f"{check.package} {found} (needed {check.needed}): {check.state.value}")
        if check.error:
            lines.append(f"    {check.error}")
    if probed is not None:
        for name in ("numpy", "scipy", "SimpleITK", "pydicom"):
            lines.append(f"{name} {probed['packages'].get(name)}")
        lines += devicesText(probed).splitlines()
    return hidePaths("\n".join(lines))


class SetupPanel:
    """Shows the state of the packages and installs them after one question."""

    def __init__(
        self, ui: object, dependencies: Dependencies, dialogs: Dialogs | None = None
    ) -> None:
        self._ui = ui
        self.dependencies = dependencies
        self._dialogs = dialogs or Dialogs(ui.setupSection)
        self._entered = False
        self._work: Callable[[], None] | None = None
        self._closed = False
        self._paintTimer = singleShotTimer(PAINT_MS)
        self._pollTimer = singleShotTimer(POLL_MS)
        self._shown: list[tuple[str, ...]] = []
        columns = [(title, "") for title in (_("Package"), _("Found"), _("State"))]
        prepareTable(ui.setupTable, columns, stretched=STATE)
        ui.setupPythonEdit.setProperty("currentPath", Settings.workerPython())
        self._connections = Connections(
            (ui.setupInstallButton.clicked, self._install),
            (ui.setupRepairButton.clicked, lambda *_unused: self._ask(repair=True)),
            (ui.setupFolderButton.clicked, self._installFromFolder),
            (ui.setupCheckButton.clicked, lambda *_unused: self.check()),
            (ui.setupCopyButton.clicked, self._copy),
            (
                ui.setupNotesButton.toggled,
                lambda *_unused: disclose(ui.setupNotesButton, ui.setupNotesLabel),
            ),
            *pathChanges(ui.setupPythonEdit, self._pythonChosen),
            (ui.setupSection.contentsCollapsed, self.refresh),
            (self._paintTimer.timeout, self._doWork),
            (self._pollTimer.timeout, self.refresh),
        )
        self._showStatus("")
        self.refresh()

    def cleanup(self) -> None:
        """Disconnect from the widgets; a running installation continues without them."""
        self._closed = True
        self._paintTimer.stop()
        self._pollTimer.stop()
        self._connections.close()

    def enter(self) -> None:
        """Update the packages; at the first time, open the section if some are missing."""
        deps = self.dependencies
        deps.lookAgain()
        if not self._entered:
            self._entered = True
            if Settings.installPending() and (deps.extension.isThere() or not deps.missing()):
                Settings.setInstallPending(False)
                if deps.missing():
                    self._showStatus(
                        _("The PyTorch extension is installed. Click Install… to continue.")
                    )
            if not deps.external and deps.missing():
                self._ui.setupSection.setProperty("collapsed", False)
        self.refresh()

    def open(self) -> None:
        """Open the section and check the packages, after a job failed because one is missing."""
        self._ui.setupSection.setProperty("collapsed", False)
        if self._nameCheckProblem() is None:
            self.check()

    def refresh(self, *_unused: object) -> None:
        """Show the packages; enable the buttons, or show their problems in tooltips."""
        if self._closed:
            return
        ui, deps = self._ui, self.dependencies
        working = deps.installing or deps.checking or self._work is not None
        ui.setupProgressBar.setVisible(working)
        ui.setupLogText.setVisible(bool(ui.setupLogText.toPlainText()))
        if not deps.installing:
            self._showPackages()
        problem = self._nameInstallProblem()
        nothing = None if deps.missing() else _("Everything is installed.")
        enable(
            ui.setupInstallButton,
            problem or nothing,
            _("Install what is missing, after one question."),
        )
        enable(ui.setupFolderButton, problem, _("Install from an offline kit, without network."))
        enable(
            ui.setupRepairButton,
            problem or self._nameRepairProblem(),
            _("Remove PyTorch and reinstall it."),
        )
        enable(
            ui.setupCheckButton,
            self._nameCheckProblem(),
            _("Load every package in a separate process."),
        )
        ui.setupPythonEdit.setEnabled(not working)
        if deps.inUse and not ui.setupSection.property("collapsed"):
            self._pollTimer.start()

    def _showPackages(self) -> None:
        ui, deps = self._ui, self.dependencies
        tested = deps.probed is not None
        checks = deps.checks()
        if deps.external and not tested:
            text = _("Another Python is used. Click Check to test it.")
        else:
            platform = "" if deps.external else deps.nameTorchProblem()
            text = f"{summarize(checks, tested=tested)} {platform}".strip()
        ui.setupStateLabel.setText(text)
        self._fillTable(checks, tested=tested)
        devices = devicesText(deps.probed)
        ui.setupDevicesLabel.setText(devices)
        ui.setupDevicesLabel.setVisible(bool(devices))

    def _fillTable(self, checks: Sequence[PackageCheck], *, tested: bool) -> None:
        checks = sorted(checks, key=lambda one: one.state is READY)
        shown = [
            (
                one.package,
                one.found or "–",
                stateText(one, tested=tested),
                one.error or _("Needed: {version}").format(version=one.needed),
            )
            for one in checks
        ]
        if shown == self._shown:  # filling the table takes longer than a frame
            return
        self._shown = shown
        rows = []
        for check, (*cells, toolTip) in zip(checks, shown, strict=True):
            items = [qt.QTableWidgetItem(cell) for cell in cells]
            for item in items:
                item.setFlags(qt.Qt.ItemIsEnabled)
                item.setToolTip(toolTip)
            if check.state is not READY:
                font = items[STATE].font()
                font.setBold(True)
                items[STATE].setFont(font)
            rows.append(items)
        fillTable(self._ui.setupTable, rows)

    def _nameInstallProblem(self) -> str | None:
        installing = _("Packages are being installed.") if self._work is not None else None
        return self.dependencies.nameInstallProblem() or installing

    def _nameRepairProblem(self) -> str | None:
        if self.dependencies.torchIsBroken():
            return None
        if self.dependencies.probed is None:
            return _("Click Check first, to test whether PyTorch loads.")
        return _("There is nothing to repair.")

    def _nameCheckProblem(self) -> str | None:
        if self.dependencies.checking:
            return _("The packages are being checked.")
        if self.dependencies.installing or self._work is not None:
            return _("Packages are being installed.")
        return None

    def check(self, then: Callable[[], None] = doNothing) -> None:
        """Load all packages in the worker and show their state."""

        def checked(error: SpatialARError | None) -> None:
            self._showStatus("" if error is None else "⚠ " + inOneLine(error))
            self.refresh()
            if not self._closed:
                then()

        self._showStatus(_("Checking the packages…"))
        self.dependencies.check(checked)
        self.refresh()

    def _isRefused(self) -> bool:
        """Return whether nothing can be installed now, and show why."""
        problem = self._nameInstallProblem()
        if problem is not None:
            self._showStatus("⚠ " + problem)
            self.refresh()
        return problem is not None

    def _install(self, *_unused: object) -> None:
        if self._isRefused():
            return
        # Metadata do not show what is installed in part.
        if self.dependencies.probed is None:
            self.check(self._ask)
        else:
            self._ask()

    def _ask(self, *, repair: bool = False) -> None:
        deps = self.dependencies
        plan = deps.plan(repair=repair)
        if plan is None:
            self._showStatus(_("Everything is installed and works."))
        elif plan.torch is not None and not (
            deps.extension.isThere() or deps.extension.canBeInstalled()
        ):
            self._showStatus(
                _(
                    "⚠ PyTorch needs Slicer's PyTorch extension, which this Slicer cannot install. "
                    "Use the Extensions Manager or Install from folder."
                )
            )
        elif self._isWanted(plan, deps.question(plan)):
            if plan.torch is None or deps.extension.isThere():
                self._run(plan)
            else:
                text = _("Installing the PyTorch extension; Slicer does not respond meanwhile…")
                self._start(text, self._installExtension)

    def _isWanted(self, plan: InstallPlan, question: str) -> bool:
        if self._isRefused():
            return False
        problem = self.dependencies.nameDiskProblem(plan)
        if problem is not None:
            self._showStatus("⚠ " + problem)
            return False
        if self._dialogs.confirm(question):
            return True
        self._showStatus(_("Nothing was installed."))
        return False

    def _start(self, text: str, work: Callable[[], None]) -> None:
        """Show `text`; once it is painted, do work during which Slicer does not respond."""
        self._showStatus(text)
        self._work = work
        self.refresh()
        self._paintTimer.start()

    def _doWork(self) -> None:
        try:
            self._work()
        finally:
            self._work = None
            self.refresh()

    def _installExtension(self) -> None:
        try:
            done = self.dependencies.extension.install()
        except Exception as error:
            self._log(f"{type(error).__name__}: {error}")
            done = False
        if not done:
            self._showStatus(
                _(
                    "⚠ The PyTorch extension could not be installed. Check the connection, or use "
                    "the Extensions Manager or Install from folder."
                )
            )
            return
        Settings.setInstallPending(True)
        self._showStatus(_("Restart Slicer, then click Install… to continue."))
        if self._dialogs.confirm(_("The PyTorch extension is installed. Restart Slicer now?")):
            self._dialogs.restartSlicer()

    def _run(self, plan: InstallPlan, then: Callable[[], None] = doNothing) -> None:
        def ended(outcome: InstallOutcome) -> None:
            missing = self.dependencies.missing()
            text = outcomeText(outcome, missing)
            self._showStatus(text)
            self._log(text)
            self.refresh()
            if self._closed:
                return
            if not missing:
                Settings.setInstallPending(False)
                then()
            if outcome.restart and self._dialogs.confirm(
                _("Slicer may have the old PyTorch in memory. Restart it now?")
            ):
                self._dialogs.restartSlicer()

        def install() -> None:
            try:
                self.dependencies.install(plan, self._log, ended)
            except Exception as error:
                self._showStatus("⚠ " + inOneLine(asUserError(error)))

        self._start(_("Installing…"), install)

    def _installFromFolder(self, *_unused: object) -> None:
        if self._isRefused():
            return
        folder = self._dialogs.chooseFolder(_("Offline kit"))
        if not folder:
            return
        kit = Path(folder)

        def verified(found: Event | None, error: SpatialARError | None) -> None:
            self.refresh()
            if found is None:
                self._showStatus("⚠ " + inOneLine(error))
            else:
                self._askForKit(kit, found)

        self._showStatus(_("Checking every file of the kit…"))
        self.dependencies.verifyKit(kit, self._progressCallback(), verified)
        self.refresh()

    def _askForKit(self, kit: Path, found: Event) -> None:
        encoders = list(found["encoders"])
        weights = _("Weights in the kit: {names} (DINOv3 License, in the folder).").format(
            names=", ".join(encoders)
        )
        plan = self.dependencies.kitPlan(kit, list(found["requirements"]))
        if plan is not None:
            question = self.dependencies.question(plan)
            if encoders:
                question = f"{weights}\n\n{question}"
            if self._isWanted(plan, question):
                self._run(plan, (lambda: self._installWeights(kit)) if encoders else doNothing)
        elif not encoders:
            self._showStatus(_("Everything in the kit is already installed."))
        elif self._dialogs.confirm(
            _("{weights}\n\nAll packages are installed. Install the weights?").format(
                weights=weights
            )
        ):
            self._installWeights(kit)
        else:
            self._showStatus(_("Nothing was installed."))

    def _installWeights(self, kit: Path) -> None:
        def installed(found: Event | None, error: SpatialARError | None) -> None:
            self.refresh()
            if found is None:
                self._showStatus("⚠ " + inOneLine(error))
                return
            names = ", ".join(found["encoders"])
            text = _("Everything is installed, with the weights {names}.").format(names=names)
            self._showStatus(text)

        self._showStatus(_("Installing the weights…"))
        self.dependencies.installWeights(kit, self._progressCallback(), installed)
        self.refresh()

    def _progressCallback(self) -> Callable[[Event], None]:
        return progressCallback(lambda progress: self._showStatus(progress.text))

    def _pythonChosen(self, *_unused: object) -> None:
        program = pathText(self._ui.setupPythonEdit)
        if program == Settings.workerPython():
            return
        Settings.setWorkerPython(program)
        self.dependencies.restartWorkers()
        self.refresh()

    def _copy(self, *_unused: object) -> None:
        deps = self.dependencies
        text = diagnostics(deps.checks(), deps.probed, Settings.device().value)
        slicer.app.clipboard().setText(text)
        self._showStatus(_("The diagnostics were copied to the clipboard."))

    def _log(self, line: str) -> None:
        if not self._closed:
            self._ui.setupLogText.setVisible(True)
            self._ui.setupLogText.appendPlainText(hidePaths(line))

    def _showStatus(self, text: str) -> None:
        if not self._closed:
            self._ui.setupStatusLabel.setText(text)
            self._ui.setupStatusLabel.setVisible(bool(text))

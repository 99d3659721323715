"""The section *Set-up*: what is installed and working, and getting the rest."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.setup.packages import PackageCheck, PackageState
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable, prepareTable, singleShotTimer
from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies
from SpatialARAnomalyLib.slicerapp.setup.Installation import InstallOutcome, InstallPlan
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.Progress import progressCallback
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event, hidePaths


def stateText(check: PackageCheck, *, tried: bool) -> str:
    """The state of a package in a word or two."""
    if check.state is PackageState.READY and not tried:
        return _("installed")
    return {
        PackageState.READY: _("works"),
        PackageState.MISSING: _("missing"),
        PackageState.OTHER_VERSION: _("other version"),
        PackageState.BROKEN: _("cannot be loaded"),
    }[check.state]


def summary(checks: tuple[PackageCheck, ...], *, tried: bool) -> str:
    """One sentence about all packages."""
    missing = [one.package for one in checks if one.state is not PackageState.READY]
    if missing:
        return _("{count} of {all} packages cannot be used yet: {names}.").format(
            count=len(missing), all=len(checks), names=", ".join(missing)
        )
    if tried:
        return _("Everything is installed and works.")
    return _("Everything is installed. Check again tries it.")


def devicesText(probed: dict[str, Any] | None) -> str:
    """The devices that torch can compute on, and their memory."""
    if probed is None:
        return _("Devices: not looked for yet.")
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
    """How an installation went, and what to do now."""
    sentences = []
    if outcome.changed:
        changes = ", ".join(
            f"{name} {before} → {after or _('removed')}"
            for name, (before, after) in outcome.changed.items()
        )
        sentences.append(
            _(
                "⚠ Packages that were to stay have changed: {changes}. Slicer may not start again: "
                "install Slicer anew if it does not, and please report this."
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
    """What helps whoever is asked for help: versions and states; no names and no places."""
    lines = [
        f"SpatialARAnomaly in Slicer {slicer.app.applicationVersion}",
        f"Python {probed['python']}, {probed['platform']}" if probed else "not tried",
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


READY = PackageState.READY

PACKAGE, NEEDED, FOUND, STATE = range(4)

ROW_PX = 20

PAINT_MS = 100
"""Milliseconds in which the panel is painted before Slicer stops answering."""

AGAIN_MS = 500
"""While a task of another section keeps the packages in use: it may have ended."""


def chooseFolder() -> str:
    """The folder of a kit, asked of the user; empty if none was chosen."""
    return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Offline kit"))


class SetupPanel:
    """Shows the packages' state; installs after one question."""

    def __init__(
        self,
        ui: object,
        dependencies: Dependencies,
        confirm: Callable[[str], bool],
        *,
        chooseFolder: Callable[[], str] = chooseFolder,
        restart: Callable[[], None] | None = None,
    ) -> None:
        self._ui = ui
        self.dependencies = dependencies
        self._confirm = confirm
        self._chooseFolder = chooseFolder
        self._restart = restart or slicer.util.restart
        self._looked = False
        self._work: Callable[[], None] | None = None
        self._closed = False
        self._paint = singleShotTimer(PAINT_MS)
        self._again = singleShotTimer(AGAIN_MS)
        self._shown: list[tuple[str, ...]] = []
        self._prepareTable()
        ui.setupPythonEdit.setProperty("currentPath", Settings.workerPython())
        self._connections = (
            (ui.setupInstallButton.clicked, self._install),
            (ui.setupRepairButton.clicked, self._repair),
            (ui.setupFolderButton.clicked, self._installFromFolder),
            (ui.setupCheckButton.clicked, self.check),
            (ui.setupCopyButton.clicked, self._copy),
            (ui.setupPythonEdit.currentPathChanged, self._pythonChosen),
            (ui.setupSection.contentsCollapsed, self.refresh),
            (self._paint.timeout, self._doWork),
            (self._again.timeout, self.refresh),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self._tell("")
        self.refresh()

    def _prepareTable(self) -> None:
        heads = (_("Package"), _("Needed"), _("Found"), _("State"))
        prepareTable(self._ui.setupTable, [(head, "") for head in heads], stretched=STATE)
        self._ui.setupTable.verticalHeader().setDefaultSectionSize(ROW_PX)

    def cleanup(self) -> None:
        """Disconnect from the widgets; an installation goes on to its end without them."""
        self._closed = True
        self._paint.stop()
        self._again.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def enter(self) -> None:
        """The user comes to the module: the section opens by itself where something is missing."""
        self.dependencies.lookAgain()
        if self._looked:
            self.refresh()
            return
        self._looked = True
        deps = self.dependencies
        if Settings.installPending() and (deps.extension.isThere() or not deps.missing()):
            Settings.setInstallPending(False)
            if deps.missing():
                self._tell(_("The PyTorch extension is there now. Click Install… to go on."))
        if not deps.external and deps.missing():
            self._ui.setupSection.setProperty("collapsed", False)
        self.refresh()

    def open(self, *, check: bool = True) -> None:
        """Open the section, and try the packages: something needs one that is not there."""
        self._ui.setupSection.setProperty("collapsed", False)
        if check and self._whyNotCheck() is None:
            self.check()

    def refresh(self, *_unused: object) -> None:
        """Show the state of the packages, and what can be done now."""
        if self._closed:
            return
        ui, deps = self._ui, self.dependencies
        working = deps.installing or deps.checking or self._work is not None
        ui.setupProgressBar.setVisible(working)
        ui.setupLogText.setVisible(bool(ui.setupLogText.toPlainText()))
        if not deps.installing:
            self._showPackages()
        reason = deps.nameInstallProblem() or self._whyNotYet()
        enable(
            ui.setupInstallButton,
            reason or self._whyNothingToInstall(),
            _("Install what is missing, after one question."),
        )
        enable(
            ui.setupFolderButton, reason, _("Install from an offline kit; asks no other computer.")
        )
        enable(
            ui.setupRepairButton,
            reason or self._whyNoRepair(),
            _("Remove what is left of PyTorch and install it again."),
        )
        enable(
            ui.setupCheckButton,
            self._whyNotCheck(),
            _("Try every package in a process of its own."),
        )
        ui.setupPythonEdit.setEnabled(not working)
        if deps.inUse and not ui.setupSection.property("collapsed"):
            self._again.start()

    def _showPackages(self) -> None:
        ui, deps = self._ui, self.dependencies
        tried = deps.probed is not None
        checks = deps.checks()
        if deps.external and not tried:
            ui.setupStateLabel.setText(_("Another Python computes. Check again tries it."))
        else:
            text = summary(checks, tried=tried)
            platform = "" if deps.external else deps.nameTorchProblem()
            ui.setupStateLabel.setText(" ".join(part for part in (text, platform) if part))
        self._fillTable(checks, tried=tried)
        devices = devicesText(deps.probed)
        ui.setupDevicesLabel.setText(devices)
        ui.setupDevicesLabel.setVisible(bool(devices))

    def _fillTable(self, checks: Sequence[PackageCheck], *, tried: bool) -> None:
        # What the user has to see comes first.
        checks = sorted(checks, key=lambda one: one.state is READY)
        shown = [
            (one.package, one.needed, one.found or "–", stateText(one, tried=tried), one.error)
            for one in checks
        ]
        if shown == self._shown:  # to fill it takes longer than a frame
            return
        self._shown = shown
        table = self._ui.setupTable
        table.setRowCount(len(checks))
        for row, (*cells, tip) in enumerate(shown):
            for column, cell in enumerate(cells):
                item = qt.QTableWidgetItem(cell)
                item.setFlags(qt.Qt.ItemIsEnabled)
                item.setToolTip(tip)
                if column == STATE and checks[row].state is not READY:
                    font = item.font()
                    font.setBold(True)
                    item.setFont(font)
                table.setItem(row, column, item)

    def _whyNotYet(self) -> str | None:
        return _("Packages are being installed.") if self._work is not None else None

    def _whyNothingToInstall(self) -> str | None:
        if self.dependencies.missing():
            return None
        return _("Everything is installed.")

    def _whyNoRepair(self) -> str | None:
        if self.dependencies.torchIsBroken():
            return None
        if self.dependencies.probed is None:
            return _("Click Check again first: it tells whether PyTorch can be loaded.")
        return _("There is nothing to repair.")

    def _whyNotCheck(self) -> str | None:
        if self.dependencies.checking:
            return _("The packages are being tried.")
        return (
            _("Packages are being installed.")
            if self.dependencies.installing
            else self._whyNotYet()
        )

    def check(self, *_unused: object) -> None:
        """Try all packages, and show how they are."""
        self._try(lambda: None)

    def _try(self, then: Callable[[], None]) -> None:
        def tried(error: SpatialARError | None) -> None:
            self._tell("" if error is None else "⚠ " + inOneLine(error))
            self.refresh()
            if not self._closed:
                then()

        self._tell(_("Trying the packages…"))
        self.dependencies.check(tried)
        self.refresh()

    def _isRefused(self) -> bool:
        """Whether nothing can be installed now; says why. Much may have begun since a refresh."""
        reason = self.dependencies.nameInstallProblem() or self._whyNotYet()
        if reason is not None:
            self._tell("⚠ " + reason)
            self.refresh()
        return reason is not None

    def _install(self, *_unused: object) -> None:
        if self._isRefused():
            return
        if self.dependencies.probed is None:  # metadata do not tell what is half there
            self._try(self._ask)
        else:
            self._ask()

    def _repair(self, *_unused: object) -> None:
        self._ask(repair=True)

    def _ask(self, *, repair: bool = False) -> None:
        deps = self.dependencies
        plan = deps.plan(repair=repair)
        if plan is None:
            self._tell(_("Everything is installed and works."))
        elif plan.torch is not None and not (
            deps.extension.isThere() or deps.extension.canBeInstalled()
        ):
            self._tell(
                _(
                    "⚠ PyTorch comes through Slicer's PyTorch extension, which this Slicer cannot "
                    "install. Install it with the Extensions Manager, or use Install from folder."
                )
            )
        elif self._isWanted(plan, deps.question(plan)):
            if plan.torch is None or deps.extension.isThere():
                self._run(plan)
            else:
                text = _("Installing the PyTorch extension; Slicer does not answer meanwhile…")
                self._start(text, self._installExtension)

    def _isWanted(self, plan: InstallPlan, question: str) -> bool:
        if self._isRefused():
            return False
        noRoom = self.dependencies.nameDiskProblem(plan)
        if noRoom is not None:
            self._tell("⚠ " + noRoom)
            return False
        if self._confirm(question):
            return True
        self._tell(_("Nothing was installed."))
        return False

    def _start(self, text: str, work: Callable[[], None]) -> None:
        """Show `text`; once it is painted, do what keeps Slicer from answering."""
        self._tell(text)
        self._work = work
        self.refresh()
        self._paint.start()

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
            self._tell(
                _(
                    "⚠ The PyTorch extension could not be installed. Check the connection, install "
                    "it with the Extensions Manager, or use Install from folder."
                )
            )
            return
        Settings.setInstallPending(True)
        self._tell(_("Restart Slicer, then click Install… to go on."))
        if self._confirm(_("The PyTorch extension is installed. Restart Slicer now?")):
            self._restart()

    def _run(self, plan: InstallPlan, then: Callable[[], None] = lambda: None) -> None:
        def ended(outcome: InstallOutcome) -> None:
            missing = self.dependencies.missing()
            text = outcomeText(outcome, missing)
            self._tell(text)
            self._log(text)
            self.refresh()
            if self._closed:
                return
            if not missing:
                Settings.setInstallPending(False)
                then()
            if outcome.restart and self._confirm(
                _("Slicer may have the old PyTorch in memory. Restart it now?")
            ):
                self._restart()

        def install() -> None:
            try:
                self.dependencies.install(plan, self._log, ended)
            except Exception as error:
                self._tell("⚠ " + inOneLine(asUserError(error)))

        self._start(_("Installing…"), install)

    def _installFromFolder(self, *_unused: object) -> None:
        if self._isRefused():
            return
        folder = self._chooseFolder()
        if not folder:
            return
        kit = Path(folder)

        def verified(found: Event | None, error: SpatialARError | None) -> None:
            self.refresh()
            if found is None:
                self._tell("⚠ " + inOneLine(error))
            else:
                self._askForKit(kit, found)

        self._tell(_("Checking every file of the kit…"))
        self.dependencies.verifyKit(kit, self._progressTeller(), verified)
        self.refresh()

    def _askForKit(self, kit: Path, found: Event) -> None:
        encoders = list(found["encoders"])
        weights = _("Weights that come with it: {names} (DINOv3 License, in the folder).").format(
            names=", ".join(encoders)
        )
        plan = self.dependencies.kitPlan(kit, list(found["requirements"]))
        installWeights = (lambda: self._installWeights(kit)) if encoders else (lambda: None)
        if plan is not None:
            question = self.dependencies.question(plan)
            if encoders:
                question = f"{weights}\n\n{question}"
            if self._isWanted(plan, question):
                self._run(plan, installWeights)
        elif not encoders:
            self._tell(_("Everything in the kit is installed already."))
        elif self._confirm(
            _("{weights}\n\nThe packages are all there. Install the weights?").format(
                weights=weights
            )
        ):
            installWeights()
        else:
            self._tell(_("Nothing was installed."))

    def _installWeights(self, kit: Path) -> None:
        def installed(found: Event | None, error: SpatialARError | None) -> None:
            self.refresh()
            if found is None:
                self._tell("⚠ " + inOneLine(error))
                return
            names = ", ".join(found["encoders"])
            self._tell(_("Everything is installed, with the weights {names}.").format(names=names))

        self._tell(_("Installing the weights…"))
        self.dependencies.installWeights(kit, self._progressTeller(), installed)
        self.refresh()

    def _progressTeller(self) -> Callable[[Event], None]:
        return progressCallback(lambda progress: self._tell(progress.text))

    def _pythonChosen(self, *_unused: object) -> None:
        program = str(self._ui.setupPythonEdit.property("currentPath") or "").strip()
        if program == Settings.workerPython():
            return
        Settings.setWorkerPython(program)
        self.dependencies.restartWorkers()
        self.refresh()

    def _copy(self, *_unused: object) -> None:
        deps = self.dependencies
        text = diagnostics(deps.checks(), deps.probed, Settings.device().value)
        slicer.app.clipboard().setText(text)
        self._tell(_("Diagnostics are in the clipboard."))

    def _log(self, line: str) -> None:
        if self._closed:
            return
        self._ui.setupLogText.setVisible(True)
        self._ui.setupLogText.appendPlainText(hidePaths(line))

    def _tell(self, text: str) -> None:
        if self._closed:
            return
        self._ui.setupStatusLabel.setText(text)
        self._ui.setupStatusLabel.setVisible(bool(text))

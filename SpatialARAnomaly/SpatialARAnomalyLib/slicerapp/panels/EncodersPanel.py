"""The section *Encoders*: weights to get, check, add and remove."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.encoders import dinov3_license
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID
from SpatialARAnomalyLib.service.encoders.hub import is_hub_id
from SpatialARAnomalyLib.service.encoders.library import EncoderEntry, list_encoders
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.EncodersTable import (
    EncoderDialogs,
    EncodersTable,
    hereText,
)
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, showShare
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

DOWNLOADER_IDLE_S = 20.0
"""The process that fetches is small and soon there again."""

LICENSE_LINK = "license"


class EncodersPanel:
    """Fetches in a process of its own, so that detections need not wait for a long download.

    `onChanged` is called when an encoder has come or gone.
    """

    def __init__(
        self,
        ui: object,
        worker: WorkerProcess,
        log: Callable[[str], None],
        confirm: Callable[[str], bool],
        dialogs: EncoderDialogs | None = None,
    ) -> None:
        self._ui = ui
        self._worker = worker
        self._downloader = WorkerProcess(log, idleS=DOWNLOADER_IDLE_S)
        self._log = log
        self._confirm = confirm
        self._dialogs = dialogs or EncoderDialogs(ui.encodersSection)
        self.onChanged: Callable[[], None] = _unheard
        self.onMissingPackage: Callable[[], None] = _unheard
        self._entries: list[EncoderEntry] = []
        self._asked: list[str] = []
        self._cancel: Callable[[], None] | None = None
        self._cancelling = False
        ui.encodersProgressBar.setVisible(False)
        self._table = EncodersTable(ui.encodersTable, self._chosenChanged)
        self._connections = (
            (ui.encodersGetButton.clicked, self._getOrCancel),
            (ui.encodersCheckButton.clicked, self._check),
            (ui.encodersRemoveButton.clicked, self._remove),
            (ui.encodersAddFolderButton.clicked, self._addFolder),
            (ui.encodersAddFileButton.clicked, self._addFile),
            (ui.encodersLicenseLabel.linkActivated, self._showLicense),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        ui.encodersDetailLabel.setOpenExternalLinks(True)
        self.reload()

    def cleanup(self) -> None:
        """Let go of the widgets; a download is ended."""
        self._downloader.stop()
        self._table.cleanup()
        for signal, slot in self._connections:
            signal.disconnect(slot)

    @property
    def busy(self) -> bool:
        """Whether something is fetched, checked or removed."""
        return self._cancel is not None

    def enter(self) -> None:
        """The user came back: encoders may have come or gone meanwhile."""
        self.reload()

    def obtain(self, source: str) -> None:
        """Lead the user to an encoder that something needs: its hub id, or its own name."""
        known = [entry.source for entry in self._entries]
        if source not in known and is_hub_id(source):
            self._asked.append(source)
            self.reload()
        self._ui.encodersSection.collapsed = False
        self._table.choose(source)
        if self._table.chosen() is None:
            self._tell(
                _(
                    "'{name}' was loaded from a folder or file of that name. Add it from where "
                    "it lies on this machine."
                ).format(name=source)
            )
        area = self._ui.encodersSection
        while area is not None and not area.inherits("QScrollArea"):
            area = area.parentWidget()
        if area is not None:
            area.ensureWidgetVisible(self._ui.encodersTable)

    def reload(self) -> None:
        """Look again which encoders are on this machine."""
        self._entries = list_encoders(self._asked)
        self._table.show(self._entries)
        self.refresh()

    def _chosen(self) -> EncoderEntry | None:
        source = self._table.chosen()
        return next((entry for entry in self._entries if entry.source == source), None)

    def _chosenChanged(self) -> None:
        if not self.busy:
            self._tell("")
        self.refresh()

    def refresh(self) -> None:
        """Show what can be done now, and why not what cannot."""
        ui, entry = self._ui, self._chosen()
        ui.encodersDetailLabel.setText(_detailText(entry))
        ui.encodersTokenEdit.setVisible(_mayNeedToken(entry) and not self.busy)
        ui.encodersProgressBar.setVisible(self.busy)
        ui.encodersLicenseLabel.setText(_licenseText())
        busy = _("Wait until what runs has ended.") if self.busy else None
        if self.busy:
            ui.encodersGetButton.setText(_("Cancel"))
            waiting = _("It is being stopped.") if self._cancelling else None
            enable(ui.encodersGetButton, waiting, _("Stop the download."))
        else:
            ui.encodersGetButton.setText(_("Get…"))
            enable(
                ui.encodersGetButton,
                _whyNotGet(entry),
                _("Download it into the hub's cache."),
            )
        here = _whyNotHere(entry)
        enable(
            ui.encodersCheckButton,
            busy or here,
            _("Load it and embed a test slice: whether it works here, and how fast."),
        )
        enable(
            ui.encodersRemoveButton,
            busy or here,
            _("Delete it from this machine; a folder or file of your own is only forgotten."),
        )
        for button in (ui.encodersAddFolderButton, ui.encodersAddFileButton):
            enable(
                button,
                busy,
                _("Use weights that lie on this machine (config.json with .safetensors files)."),
            )

    def _getOrCancel(self, *_unused: object) -> None:
        if self._cancel is not None:
            self._cancelling = True
            self._tell(_("Cancelling…"))
            self._cancel()
            self.refresh()
            return
        entry = self._chosen()
        if entry is None or _whyNotGet(entry) is not None:
            return
        if not dinov3_license.is_accepted():
            if not self._dialogs.showLicense(True):
                self._tell(_("Nothing was downloaded: the license was not accepted."))
                return
            try:
                dinov3_license.accept()
            except SpatialARError as error:
                self._tell(inOneLine(error), isError=True)
                return
        token = str(self._ui.encodersTokenEdit.property("text")).strip()
        # Its undo history forgets the text, too.
        self._ui.encodersTokenEdit.setText("")
        inputs = {"source": entry.source}
        if token:
            inputs["token"] = token
        self._log(f"download of the encoder {entry.source}")
        self._run(self._downloader, "encoder_get", inputs, {}, self._got)

    def _got(self, event: dict[str, Any]) -> None:
        self._tell(_("It is on this machine. Check tells whether it works."))

    def _check(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is not None:
            self._run(
                self._worker,
                "encoder_check",
                {"source": entry.source},
                {"device": Settings.device().value},
                self._checked,
            )

    def _checked(self, event: dict[str, Any]) -> None:
        self._tell(
            _("It works: {seconds} s for a slice of {size} px on {device}.").format(
                seconds=f"{event['seconds_per_slice']:.2g}",
                size=event["size_px"],
                device=event["device"],
            )
        )

    def _remove(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None:
            return
        if entry.own:
            question = _("Forget '{name}'? Its files stay where they are.").format(name=entry.title)
        else:
            question = _(
                "Delete '{name}' ({here}) from this machine? Other programs that use the hub's "
                "cache lose it, too."
            ).format(name=entry.source, here=hereText(entry))
        if self._confirm(question):
            self._run(
                self._downloader, "encoder_remove", {"source": entry.source}, {}, self._removed
            )

    def _removed(self, event: dict[str, Any]) -> None:
        freed = int(event["freed_bytes"])
        if freed:
            self._tell(_("Deleted: {size} are free again.").format(size=sizeText(freed)))
        else:
            self._tell(_("Forgotten. Its files are where they were."))

    def _addFolder(self, *_unused: object) -> None:
        self._add(self._dialogs.chooseFolder())

    def _addFile(self, *_unused: object) -> None:
        self._add(self._dialogs.chooseFile())

    def _add(self, path: str) -> None:
        if path:
            self._run(
                self._worker,
                "encoder_add",
                {"source": path},
                {},
                lambda event: self._added(path, event),
            )

    def _added(self, path: str, event: dict[str, Any]) -> None:
        self._table.choose(str(Path(path)))
        self._tell(
            _("Added: {name} is a {architecture}.").format(
                name=event["name"], architecture=event["architecture"]
            )
        )

    def _run(
        self,
        worker: WorkerProcess,
        job: str,
        inputs: dict[str, Any],
        spec: dict[str, Any],
        done: Callable[[dict[str, Any]], None],
    ) -> None:
        """Have a job done; `done` hears its result once the table shows what came of it."""

        def show(progress: Progress) -> None:
            if not self._cancelling:
                showShare(self._ui.encodersProgressBar, progress.share)
                self._ui.encodersStatusLabel.setText(progress.text)

        def ended(event: dict[str, Any]) -> None:
            self._cancel, self._cancelling = None, False
            self.reload()
            if event["event"] == "result":
                done(event)
                self.onChanged()
                return
            error = outcomeOf(event).error
            if error is None:
                self._tell(_("Cancelled."))
            else:
                self._log(f"failed: {error.code}")
                self._tell(inOneLine(error), isError=True)
                if isMissingPackage(error):
                    self.onMissingPackage()

        self._tell("")
        self._ui.encodersProgressBar.setValue(0)
        self._cancel = _unheard
        number = worker.submit(job, inputs=inputs, spec=spec, onEvent=progressCallback(show), onEnd=ended)
        # It has ended already where the process could not be started.
        if self.busy:
            self._cancel = lambda: worker.cancel(number)
        self.refresh()

    def _showLicense(self, *_unused: object) -> None:
        self._dialogs.showLicense(False)

    def _tell(self, text: str, *, isError: bool = False) -> None:
        self._ui.encodersStatusLabel.setText(f"⚠ {text}" if isError else text)


def _unheard() -> None:
    """Nothing is to be done."""


def _mayNeedToken(entry: EncoderEntry | None) -> bool:
    if entry is None or entry.here or entry.own:
        return False
    return entry.known is None or entry.known.gated


def _whyNotGet(entry: EncoderEntry | None) -> str | None:
    if entry is None:
        return _("Choose an encoder in the table.")
    if entry.own:
        return _("It is a folder or file of your own.")
    return _("It is on this machine.") if entry.here else None


def _whyNotHere(entry: EncoderEntry | None) -> str | None:
    if entry is None:
        return _("Choose an encoder in the table.")
    return None if entry.here else _("It is not on this machine: get it first.")


def _licenseText() -> str:
    accepted = dinov3_license.is_accepted()
    link = f'<a href="{LICENSE_LINK}">'
    if accepted:
        return _("{link}DINOv3 License</a>, which you accepted.").format(link=link)
    return _("{link}DINOv3 License</a>: asked for before the first download.").format(link=link)


def _detailText(entry: EncoderEntry | None) -> str:
    """What the chosen encoder is, and how one comes by it."""
    if entry is None:
        return ""
    known = entry.known
    if known is None:
        return f"<b>{entry.title}</b>"
    what = _("<b>{source}</b><br>{architecture}, {parameters} million parameters").format(
        source=entry.source,
        architecture=known.architecture,
        parameters=round(known.parameters / 1e6),
    )
    if not known.gated or entry.here:
        return what
    return what + _(
        "<br>Meta gives it to accounts that were granted access: open "
        '<a href="{page}">its page</a>, log in and accept the terms. Once access is granted, '
        "make a token there (Settings, Access Tokens, role <i>read</i>) and paste it below, or "
        "log in with <i>hf auth login</i>. The token is sent to the hub for this download and "
        "stored nowhere. Requests are often refused: <i>{free}</i> is free."
    ).format(page=known.page, free=DEFAULT_ID)

"""The section *Encoders*: download, check, add and remove encoder weights."""

from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.encoders import dinov3_license
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID
from SpatialARAnomalyLib.service.encoders.hub import is_hub_id
from SpatialARAnomalyLib.service.encoders.library import EncoderEntry, list_encoders
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.panels.JobRunner import JobRunner
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    KeyedTable,
    doNothing,
    enable,
    rowHeight,
    tableItem,
)
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event, WorkerProcess

DOWNLOADER_IDLE_S = 20.0
"""Seconds after which the idle downloader process ends: it is small and starts quickly."""

ROWS_SHOWN = 7
"""Rows of the table that are visible without scrolling."""


class EncodersPanel:
    """Downloads in a process of its own, so that detections need not wait.

    `onChanged` is called after a job: an encoder may have been added or removed.
    """

    def __init__(
        self,
        ui: object,
        worker: WorkerProcess,
        log: Callable[[str], None],
        dialogs: Dialogs | None = None,
    ) -> None:
        self._ui = ui
        self.worker = worker
        self._downloader = WorkerProcess(log, idleS=DOWNLOADER_IDLE_S)
        self._log = log
        self._dialogs = dialogs or Dialogs(ui.encodersSection)
        self.onChanged: Callable[[], None] = doNothing
        self.onMissingPackage: Callable[[], None] = doNothing
        self._entries: list[EncoderEntry] = []
        self._requested: list[str] = []
        self._table = KeyedTable(ui.encodersTable, _columns(), self._chosenChanged, stretched=0)
        ui.encodersTable.setMinimumHeight(rowHeight(ui.encodersTable) * (ROWS_SHOWN + 1))
        self._jobs = JobRunner(ui.encodersProgressBar, self._showStatus, log, self._jobsChanged)
        self._jobs.onMissingPackage = lambda: self.onMissingPackage()
        self._showStatus("")
        self._connections = Connections(
            (ui.encodersGetButton.clicked, self._getOrCancel),
            (ui.encodersCheckButton.clicked, self._check),
            (ui.encodersRemoveButton.clicked, self._remove),
            (ui.encodersAddFolderButton.clicked, self._addFolder),
            (ui.encodersAddFileButton.clicked, self._addFile),
            (
                ui.encodersLicenseLabel.linkActivated,
                lambda *_unused: self._dialogs.showLicense(ask=False),
            ),
        )
        ui.encodersDetailLabel.setOpenExternalLinks(True)
        self.reload()

    def cleanup(self) -> None:
        """Disconnect from the widgets and cancel a running job."""
        self._jobs.close()
        self._downloader.stop()
        self._table.cleanup()
        self._connections.close()

    @property
    def busy(self) -> bool:
        """True while a job is running."""
        return self._jobs.busy

    def obtain(self, source: str) -> None:
        """Show an encoder that a model needs, by its hub id or its own name."""
        known = [entry.source for entry in self._entries]
        if source not in known and is_hub_id(source):
            self._requested.append(source)
            self.reload()
        self._ui.encodersSection.collapsed = False
        self._table.choose(source)
        if self._table.chosen() is None:
            self._showStatus(
                _("'{name}' came from a folder or file. Add that folder or file.").format(
                    name=source
                )
            )
        area = self._ui.encodersSection
        while area is not None and not area.inherits("QScrollArea"):
            area = area.parentWidget()
        if area is not None:
            area.ensureWidgetVisible(self._ui.encodersTable)

    def reload(self) -> None:
        """List the encoders; the chosen one stays chosen, at first it is the default."""
        entries = list_encoders(self._requested)
        if entries != self._entries:  # filling the table takes longer than a frame
            self._entries = entries
            rows = {entry.source: _cells(entry) for entry in entries}
            self._table.show(rows, self._table.chosen() or DEFAULT_ID)
        self.refresh()

    def _chosen(self) -> EncoderEntry | None:
        source = self._table.chosen()
        return next((entry for entry in self._entries if entry.source == source), None)

    def _chosenChanged(self) -> None:
        if not self.busy:
            self._showStatus("")
        self.refresh()

    def refresh(self) -> None:
        """Describe the chosen encoder; enable the buttons, or show their problems."""
        ui, entry = self._ui, self._chosen()
        ui.encodersDetailLabel.setText(_describe(entry))
        ui.encodersTokenEdit.setVisible(_mayNeedToken(entry) and not self.busy)
        ui.encodersProgressBar.setVisible(self.busy)
        ui.encodersLicenseLabel.setText(_licenseText())
        busy = _("Wait for the running task.") if self.busy else None
        if self.busy:
            ui.encodersGetButton.setText(_("Cancel"))
            stopping = _("It is being stopped.") if self._jobs.cancelling else None
            enable(ui.encodersGetButton, stopping, _("Stop the running task."))
        else:
            ui.encodersGetButton.setText(_("Get…"))
            enable(
                ui.encodersGetButton,
                _nameDownloadProblem(entry),
                _("Download it into the hub's cache."),
            )
        absent = _nameAbsence(entry)
        enable(
            ui.encodersCheckButton,
            busy or absent,
            _("Load it and embed a test slice to measure its speed."),
        )
        enable(
            ui.encodersRemoveButton,
            busy or absent,
            _("Delete it from this machine; your own files are kept."),
        )
        for button in (ui.encodersAddFolderButton, ui.encodersAddFileButton):
            enable(
                button,
                busy,
                _("Use weights on this machine (config.json with .safetensors files)."),
            )

    def _getOrCancel(self, *_unused: object) -> None:
        if self.busy:
            self._jobs.cancel()
            return
        entry = self._chosen()
        if entry is None or _nameDownloadProblem(entry) is not None:
            return
        if not dinov3_license.is_accepted():
            if not self._dialogs.showLicense(ask=True):
                self._showStatus(_("Nothing was downloaded: the license was not accepted."))
                return
            try:
                dinov3_license.accept()
            except SpatialARError as error:
                self._showStatus("⚠ " + inOneLine(error))
                return
        token = str(self._ui.encodersTokenEdit.property("text")).strip()
        # Its undo history is cleared, too.
        self._ui.encodersTokenEdit.setText("")
        inputs = {"source": entry.source} | ({"token": token} if token else {})
        self._log(f"download of the encoder {entry.source}")
        self._jobs.run(
            self._downloader,
            "encoder_get",
            inputs,
            lambda event: _("Downloaded. Click Check to test it."),
        )

    def _check(self, *_unused: object) -> None:
        def onResult(event: Event) -> str:
            return _("It works: {seconds} s for a slice of {size} px on {device}.").format(
                seconds=f"{event['seconds_per_slice']:.2g}",
                size=event["size_px"],
                device=event["device"],
            )

        entry = self._chosen()
        if entry is not None:
            spec = {"device": Settings.device().value}
            self._jobs.run(
                self.worker, "encoder_check", {"source": entry.source}, onResult, spec=spec
            )

    def _remove(self, *_unused: object) -> None:
        def onResult(event: Event) -> str:
            freed = int(event["freed_bytes"])
            if freed:
                return _("Deleted. {size} of disk are free again.").format(size=sizeText(freed))
            return _("Removed from the list. Its files were kept.")

        entry = self._chosen()
        if entry is None:
            return
        if entry.own:
            question = _("Remove '{name}' from the list? Its files are kept.").format(
                name=entry.title
            )
        else:
            question = _(
                "Delete '{name}' ({here}) from this machine? Other programs that share the hub's "
                "cache lose it, too."
            ).format(name=entry.source, here=_hereText(entry))
        if self._dialogs.confirm(question):
            inputs = {"source": entry.source}
            self._jobs.run(self._downloader, "encoder_remove", inputs, onResult)

    def _addFolder(self, *_unused: object) -> None:
        self._add(self._dialogs.chooseFolder(_("Folder of encoder weights")))

    def _addFile(self, *_unused: object) -> None:
        filters = _("Weights (*.safetensors)")
        self._add(self._dialogs.chooseFile(_("File of encoder weights"), filters))

    def _add(self, path: str) -> None:
        def onResult(event: Event) -> str:
            self.reload()
            self._table.choose(str(Path(path)))
            return _("Added: {name} ({architecture}).").format(
                name=event["name"], architecture=event["architecture"]
            )

        if path:
            self._jobs.run(self.worker, "encoder_add", {"source": path}, onResult)

    def _jobsChanged(self) -> None:
        if self.busy:
            self.refresh()
        else:
            self.reload()
            self.onChanged()

    def _showStatus(self, text: str) -> None:
        self._ui.encodersStatusLabel.setText(text)
        self._ui.encodersStatusLabel.setVisible(bool(text))


def _columns() -> list[tuple[str, str]]:
    """Return title and tooltip of every column."""
    return [
        (_("Encoder"), _("Larger encoders take more time and memory; ViT-S/16 is the default")),
        (_("Download"), _("Size of the download (~: about)")),
        (_("Memory"), _("Approximate memory to load it and embed single slices")),
        (_("Access"), _("Gated: the hub requires an account with granted access")),
        (_("Here"), _("Whether it is on this machine")),
    ]


def _cells(entry: EncoderEntry) -> list["qt.QTableWidgetItem"]:
    known = entry.known
    return [
        tableItem(entry.title, entry.source),
        tableItem(sizeText(known.download_bytes, known.approximate) if known else ""),
        tableItem(sizeText(known.memory_bytes, True) if known else ""),
        tableItem(_accessText(entry)),
        tableItem(_hereText(entry)),
    ]


def _accessText(entry: EncoderEntry) -> str:
    if entry.own:
        return _("your own")
    if entry.known is None:
        return ""
    return _("gated") if entry.known.gated else _("free")


def _hereText(entry: EncoderEntry) -> str:
    return f"✓ {sizeText(entry.disk_bytes)}" if entry.here else ""


def _mayNeedToken(entry: EncoderEntry | None) -> bool:
    if entry is None or entry.here or entry.own:
        return False
    return entry.known is None or entry.known.gated


def _nameDownloadProblem(entry: EncoderEntry | None) -> str | None:
    if entry is None:
        return _("Choose an encoder in the table.")
    if entry.own:
        return _("It is your own folder or file.")
    return _("It is on this machine.") if entry.here else None


def _nameAbsence(entry: EncoderEntry | None) -> str | None:
    if entry is None:
        return _("Choose an encoder in the table.")
    return None if entry.here else _("It is not on this machine: get it first.")


def _licenseText() -> str:
    link = '<a href="license">'
    if dinov3_license.is_accepted():
        return _("{link}DINOv3 License</a>, which you accepted.").format(link=link)
    return _("{link}DINOv3 License</a>: shown before the first download.").format(link=link)


def _describe(entry: EncoderEntry | None) -> str:
    if entry is None:
        return ""
    known = entry.known
    if known is None:
        return f"<b>{entry.title}</b>"
    text = _("<b>{source}</b><br>{architecture}, {parameters} million parameters").format(
        source=entry.source,
        architecture=known.architecture,
        parameters=round(known.parameters / 1e6),
    )
    if not known.gated or entry.here:
        return text
    return text + _(
        "<br>Meta must grant your account access: open <a href='{page}'>its page</a>, log in and "
        "accept the terms. Then create a token there (Settings, Access Tokens, role <i>read</i>). "
        "Paste it below, or log in with <i>hf auth login</i>. The token is sent for this download "
        "only and not stored. Requests are often refused: <i>{free}</i> is free."
    ).format(page=known.page, free=DEFAULT_ID)

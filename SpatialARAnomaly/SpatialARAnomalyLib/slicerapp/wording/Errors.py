"""Errors for users of the panel, with its table of hints by error code."""

import traceback
from typing import Any

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError


def asUserError(error: Exception) -> SpatialARError:
    """Convert any error; the traceback of an internal one goes to Slicer's console."""
    if isinstance(error, SpatialARError):
        return error
    if isinstance(error, OSError):
        return SpatialARError(
            "exchange-failed",
            _("The volume could not be exchanged with the worker process ({reason}).").format(
                reason=error.strerror or type(error).__name__
            ),
        )
    if isinstance(error, MemoryError):
        return SpatialARError("out-of-memory", _("There is too little free memory for the result."))
    traceback.print_exception(error)
    return SpatialARError(
        "internal", _("Internal error ({kind}).").format(kind=f"{type(error).__name__}: {error}")
    )


def errorOf(event: dict[str, Any]) -> SpatialARError:
    """Return the error of a worker's `failed` event."""
    facts = event.get("facts") or {}
    return SpatialARError(str(event.get("code")), str(event.get("text")), **facts)


def hintOf(error: SpatialARError) -> str:
    """Return the panel's hint for an error, or ''."""
    hints = allHints().get(error.code, ())
    return error.fill(hints)


def allHints() -> dict[str, str | tuple[str, ...]]:
    """Return the hints by error code; texts of the panel's controls are in single quotes.

    A `{fact}` stands for one of the error's facts. Of several hints, the first is shown
    whose facts the error has.
    """
    chooseVolume = _(
        "Name the scans in a table (CSV) with the columns scan and volume (its number, from 1)."
    )
    convertSeries = _("Load the series in Slicer and choose it there.")
    copyModel = _("Import the model again from its source.")
    discard = _("Click 'Discard' and train again.")
    exportScan = _("Export the scan again from its source.")
    exportSeries = _("Export the complete series again.")
    getWeights = _("Get the weights again, as they were published.")
    install = _("Click 'Install…' under 'Set-up', then try again.")
    labelMap = _("Choose the scan that the labels belong to.")
    mask = _("Draw the mask on this scan.")
    mismatch = _(
        "Choose a model of such scans, or tick 'Search scans that are unlike the model's normal "
        "scans' under 'Advanced'."
    )
    otherFolder = _("Choose another folder.")
    otherName = _("Choose another name.")
    pacs = _("Correct the address or the login on the command line.")
    report = _("Please report it, with the text of 'Copy log'.")
    restart = _("Restart Slicer, as after every update.")
    truth = _("Save the truth as a label map on the scan's own voxels.")
    tryAgain = _("Try again. See the log below.")
    return {
        "affine-ambiguous": (
            _("Its sform is tilted by {tilt_degrees}°: load the DICOM series instead."),
            _("Check left and right in a viewer, then choose sform or qform as 'Orientation'."),
        ),
        "affine-not-affine": _("Correct the volume's place in the module Volumes, or reload it."),
        "affine-not-finite": exportScan,
        "affine-singular": exportScan,
        "array-format": report,
        "array-size": report,
        "array-unreadable": _("Free disk space in Slicer's temporary folder and try again."),
        "batch-names": _("Choose a folder in which every scan has a name of its own."),
        "batch-running": _("Wait until it has ended, or choose another folder."),
        "body-without-tokens": _("Choose a larger 'Resolution', or leave this scan out."),
        "busy": _("Wait for it, or cancel it first."),
        "cancelled": _("Try again."),
        "case-score-input": _("Choose a scan that shows the body."),
        "cases-lone-truth": _("Name the truth of X.nii.gz X{ending}.nii.gz."),
        "cases-missing": _("Write paths relative to the table's own folder."),
        "cases-none": _("Choose a folder of volume files, or a CSV table of scans and truths."),
        "cases-table": _("Write one row per scan, with an empty truth where it has no lesion."),
        "cases-twice": _("Remove one of its rows."),
        "checkpoint-damaged": discard,
        "checkpoint-other": discard,
        "cluster-lost": _("Start the scheduler and its workers, then try again."),
        "cluster-memory": _("Give the workers more memory, then try again."),
        "cluster-missing": install,
        "cluster-unreachable": _("Check the address of the scheduler."),
        "cluster-version": _("Install the same version on all machines."),
        "constraints": _("Make the list on that computer: PythonSlicer -m pip freeze > list.txt"),
        "device-missing": _("Choose Automatic or CPU as 'Device' under 'Advanced'."),
        "dicom-4d": chooseVolume,
        "dicom-compression": _("Decompress the files, for example with gdcmconv."),
        "dicom-gap": exportSeries,
        "dicom-gap-plane": _("Choose a model of the plane in which the scan was taken."),
        "dicom-geometry": exportSeries,
        "dicom-grid": _("Load the series again with Slicer's DICOM module."),
        "dicom-inverted": convertSeries,
        "dicom-localizer": _("Choose another series."),
        "dicom-lut": convertSeries,
        "dicom-mixed": chooseVolume,
        "dicom-mosaic": _("Convert the series to NIfTI with dcm2niix."),
        "dicom-multiframe": convertSeries,
        "dicom-no-image": exportScan,
        "dicom-one-slice": _("Choose the folder with all slices of the series."),
        "dicom-reference": _("Export the images again with their own UIDs."),
        "dicom-seg": _("Choose another format."),
        "dicom-seg-failed": _("Choose another format, or see Slicer's own log."),
        "dicom-source": _("Choose a scan in DICOM."),
        "dicomweb-missing": _("In a terminal: PythonSlicer -m pip install highdicom"),
        "encoder-architecture": _("Choose DINOv3 weights of transformers, timm or Meta."),
        "encoder-busy": _("Wait until that download has ended."),
        "encoder-cache": _("Make room there, or start Slicer with HF_HOME set to another folder."),
        "encoder-cut": _("Try again."),
        "encoder-damaged": getWeights,
        "encoder-disk-full": _("Free disk space, or start Slicer with HF_HOME on another disk."),
        "encoder-format": _("Get the same weights as a .safetensors file."),
        "encoder-gated": _(
            "Accept the terms on {page} and enter your token under 'Encoders'. Or choose an "
            "ungated encoder there."
        ),
        "encoder-hub-down": _("Try again in a few minutes."),
        "encoder-image-size": _("Choose a 'Resolution' that is a multiple of {patch_px}."),
        "encoder-layout": getWeights,
        "encoder-lfs-pointer": _("Download the file itself, with git lfs pull."),
        "encoder-missing": _("Check the folder or file, or choose another under 'Encoders'."),
        "encoder-not-a-hub": _(
            "Open the hub in a browser: the network may ask for a login. Check HF_ENDPOINT, too."
        ),
        "encoder-not-finite": getWeights,
        "encoder-not-found": _(
            "Click 'Get…' under 'Encoders', or 'Add folder…' or 'Add file…' where it lies here."
        ),
        "encoder-not-here": _("Choose another one under 'Encoders'."),
        "encoder-not-local": _("Click 'Get…' under 'Encoders'."),
        "encoder-offline": _(
            "Check the connection and the proxy (HTTPS_PROXY). Or copy the weights from another "
            "computer and click 'Add folder…' under 'Encoders'."
        ),
        "encoder-other": _("Add the encoder that the model was trained on, under 'Encoders'."),
        "encoder-proxy": _("Start Slicer with HTTPS_PROXY set, or ask your IT to allow the hub."),
        "encoder-shape": getWeights,
        "encoder-slow": _("Try again when the connection is better."),
        "encoder-software": install,
        "encoder-tls": _(
            "Check this computer's date. Ask your IT to install the network's certificate in the "
            "system, or start Slicer with SSL_CERT_FILE set."
        ),
        "encoder-token": _(
            "Make a new token on your account's page at the hub, and enter it under 'Encoders'."
        ),
        "encoder-too-many": (
            _("Wait {wait}, then try again."),
            _("Wait a few minutes, then try again."),
        ),
        "encoder-unverified": _(
            "Start Slicer without HF_ENDPOINT. Or get the files in another way and click "
            "'Add folder…' under 'Encoders'."
        ),
        "encoder-wrong-bytes": _("Try again. A proxy or mirror may change the files."),
        "exchange-failed": _("Free disk space in Slicer's temporary folder and try again."),
        "export-folder": _("Choose a folder under 'Export'."),
        "home-missing": _("Start Slicer with HOME set to a folder that you may write to."),
        "input-damaged": _("Copy or export it again."),
        "input-data-file": _("Save the scan as one file (.nrrd or .mha)."),
        "input-empty": _("Choose a folder with volume files or a DICOM series."),
        "input-encoding": _("Load it in another program and save it with gzip."),
        "input-format": _("Choose a folder of DICOM images, or convert the file to NRRD."),
        "input-in-output": _("Move the scans, or choose another name for the model."),
        "input-mixed": _("Choose a folder with one kind of scan."),
        "input-missing": _("Choose it again: it may have been moved."),
        "input-name": _("Rename it."),
        "input-several": _("Choose one of them."),
        "input-stand-in": _("Download the file itself: with git lfs pull, or after signing in."),
        "input-unreadable": _("Check that you may read it and that its drive is connected."),
        "install-not-now": _("'Set-up' shows what is needed."),
        "internal": report,
        "job-unknown": restart,
        "kit-damaged": _("Copy the kit again, or make it again."),
        "kit-missing": _("Choose the folder that spatial-ar-anomaly offline-kit made."),
        "kit-other-platform": _("Make the kit for this computer's system."),
        "kit-other-python": _("Make the kit for the Python of this Slicer."),
        "kit-platform": _("Name it as pip does, such as win_amd64."),
        "kit-unresolved": _("Make the kit with that computer's own list of packages."),
        "kit-version": _("Update the extension here, or make the kit with this version."),
        "label-map": labelMap,
        "license-not-accepted": _("Click 'Get…' under 'Encoders', which shows the license."),
        "mask-empty": mask,
        "mask-missing": _("Train without masks, or give every scan one."),
        "mask-outside": mask,
        "mask-place": mask,
        "mask-size": mask,
        "mask-values": mask,
        "modality-unsupported": _("Choose a series of MR or CT."),
        "model-damaged": copyModel,
        "model-file": _("Choose a file that 'Export…' under 'Models' wrote."),
        "model-geometry": mismatch,
        "model-in-use": _("Wait until the detection or training with it has ended."),
        "model-mask": _("Choose such a 'Mask', or another model."),
        "model-missing": _("Choose another model, or reload the models under 'More'."),
        "model-modality": mismatch,
        "model-name": otherName,
        "model-name-taken": otherName,
        "model-newer": _("Update the extension."),
        "model-older": _("Train the model again from its normal scans."),
        "model-tampered": copyModel,
        "model-unreadable": _("Check that you may read the 'Models folder'."),
        "name-empty": _("Give the scan a name."),
        "nll-missing": _("Export without the NLL volume, or detect again."),
        "normal-changed": _("Start the training again."),
        "normal-unusable": _("Survey the scans again."),
        "out-of-memory": _("Close other programs, or choose CPU as 'Device' under 'Advanced'."),
        "orientation-missing": _("Choose the other orientation."),
        "orientation-unstated": _("Check left and right, then tick 'Use scans that state none'."),
        "output-exists": _("Choose another folder or name."),
        "output-folder": otherFolder,
        "output-incomplete": report,
        "output-name": _("Choose a short name of letters, digits, - and _."),
        "output-not-a-batch": otherFolder,
        "output-not-a-demo": otherFolder,
        "output-not-a-model": otherName,
        "output-not-a-training": otherName,
        "output-not-an-evaluation": otherFolder,
        "output-unwritable": _("Free disk space, or choose a folder that you may write to."),
        "package-missing": install,
        "pacs-address": pacs,
        "pacs-certificate": pacs,
        "pacs-cut": tryAgain,
        "pacs-failed": pacs,
        "pacs-incomplete": tryAgain,
        "pacs-login": pacs,
        "pacs-no-scan": pacs,
        "pacs-not-dicomweb": pacs,
        "pacs-not-found": pacs,
        "pacs-offline": pacs,
        "pacs-several": pacs,
        "pacs-slow": tryAgain,
        "pacs-store": pacs,
        "pacs-tls": pacs,
        "phantom-lesion-room": report,
        "phantom-settings": report,
        "pip-certificate": _("Start Slicer with PIP_CERT set to your site's certificates."),
        "pip-conflict": _("Update Slicer or the extension; the log names the package."),
        "pip-disk": _("Free disk space and try again."),
        "pip-failed": _("See the log."),
        "pip-network": _(
            "Check the connection and the proxy (HTTPS_PROXY), or click 'Install from folder…'."
        ),
        "pip-no-version": _("Use a newer Slicer; the log names the package."),
        "pip-permission": _("Start Slicer as a user who may write to its folder."),
        "process-died": _("It may need too much memory: close other programs and try again."),
        "process-start": install,
        "protocol-unknown": restart,
        "request-unreadable": restart,
        "result-damaged": _("Delete the scan's folder of results, then detect again."),
        "result-model": _("Import that model again under 'Models'."),
        "result-scan": _("Click 'Detect in all scans' again: it searches changed scans."),
        "scan-extent": _("Correct the volume's spacing, or export the scan again."),
        "scan-changed": _("Click 'Survey scans' again."),
        "scene-closed": _("Load the scan again."),
        "scan-table": _("Write one row per scan, with a word for its patient."),
        "scores-not-finite": _("Detect again."),
        "series-ambiguous": _("Choose a folder that holds one series only."),
        "series-missing": _("Choose another series."),
        "series-of-file": _("Choose the folder of the series."),
        "size-not-patches": _("Choose {nearest_px} px as 'Resolution'."),
        "size-not-positive": _("Choose another 'Resolution'."),
        "spacing-zero": _("Export the scan again, or correct its header."),
        "spec-missing-key": restart,
        "spec-type": report,
        "spec-unknown-key": restart,
        "spec-value": _("Correct the value and try again."),
        "table-cell": report,
        "too-few-normals": _("Add more scans."),
        "too-few-patients": _("Add scans of more patients."),
        "too-many-findings": _("Lower the 'Threshold' rate or raise the 'Least volume'."),
        "torch-missing": install,
        "training-diverged": _("Choose another 'Network', or leave out unusual scans."),
        "training-running": _("Wait until it has ended, or cancel it."),
        "training-unwritable": _("Free disk space or connect the drive, then click 'Resume'."),
        "transform-nonlinear": _(
            "Harden the transform on a copy of the volume, then choose the copy."
        ),
        "truth-place": truth,
        "truth-size": truth,
        "truth-values": truth,
        "uv-missing": _("Install uv beside the program that makes the kit."),
        "volume-2d": _("Save it as a 3-D volume with its place in the patient."),
        "volume-4d": chooseVolume,
        "volume-changed": _("Click 'Detect anomalies' again."),
        "volume-color": _("Choose a scalar volume."),
        "volume-complex": _("Save the magnitude of the image and choose that."),
        "volume-components": _("Convert it with the module Vector to Scalar Volume."),
        "volume-constant": _("Choose another volume."),
        "volume-deleted": _("Load it again and click 'Detect anomalies'."),
        "volume-empty": _("Load the scan again."),
        "volume-label-map": labelMap,
        "volume-missing": _("Load a scan and choose it as 'Volume'."),
        "volume-too-large": _("Crop or downsample it first."),
        "volume-result": _("Choose the scan itself."),
        "volume-sequence": _("Clone the frame in the module Data and choose the copy."),
        "volume-number": _("Choose another volume of the series."),
        "voxels-not-finite": _("Choose another volume."),
        "watch-model": otherFolder,
        "watch-running": otherFolder,
        "watch-state": otherFolder,
        "window-not-ct": _("Choose CT as 'Modality'."),
        "worker-died": (
            _("It may need more memory: close other programs, then try again. Log:\n{logTail}"),
            _("It may need more memory: close other programs, then try again."),
        ),
        "worker-ended": tryAgain,
        "worker-garbage": tryAgain,
        "worker-held": _("Try again when that has ended."),
        "worker-missing": _("Choose another Python under 'Set-up', or reinstall Slicer."),
        "worker-silent": tryAgain,
    }


def isMissingPackage(error: SpatialARError) -> bool:
    """Return whether packages are missing, which the section *Set-up* installs."""
    return error.code in ("torch-missing", "package-missing", "encoder-software")


def inOneLine(error: SpatialARError) -> str:
    """Return message and hint in one line."""
    return f"{error.message} {hintOf(error)}".strip()

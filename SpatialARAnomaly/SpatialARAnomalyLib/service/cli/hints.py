"""The command line's hints: what the user can do about each error code."""

from SpatialARAnomalyLib.engine.errors import SpatialARError

_EXPORT_AGAIN = "Export the scan again from its source."
_EXPORT_SERIES = "Export the complete series again, or choose another one with --series."
_CONVERT_SERIES = "Convert the series to NIfTI or NRRD, for example with dcm2niix."
_INSTALL = 'Install the packages: pip install "spatial-ar-anomaly[torch]"'
_MASK = "Draw the mask on this scan, and save it as a label map."
_ONE_VOLUME = (
    "Choose one with --volume of `detect` (from 1), or for a training in the column volume of a "
    "table of scans (CSV)."
)
_OTHER_NAME = "Choose another name."
_OTHER_PROGRAM = "Restart the program that sent the request: it has another version."
_OTHER_SPEC = "Correct the value; `--help` describes the options."
_PACS_AGAIN = "Repeat the command, with --overwrite where results were written before."
_REPORT = "Please report it."
_RESTORE_MODEL = "Copy or import the model again from its source."
_TRUTH = "Save the truth as a label map on the scan's own voxels."
_UNGATED = "the ungated 'timm/vit_small_patch16_dinov3.lvd1689m'"

HINTS: dict[str, str | tuple[str, ...]] = {
    "affine-ambiguous": (
        "The sform is tilted by {tilt_degrees}°, as of a tilted gantry: give the DICOM series.",
        "Find out which one is right in a viewer, and choose it with --orientation sform or qform.",
    ),
    "affine-not-affine": _EXPORT_AGAIN,
    "affine-not-finite": _EXPORT_AGAIN,
    "affine-singular": "Export the scan again, or correct its header.",
    "array-format": _REPORT,
    "array-size": _REPORT,
    "array-unreadable": _REPORT,
    "batch-names": "Rename it, leave it out, or detect in it on its own.",
    "batch-running": "Wait until that command has ended, or choose another --out.",
    "body-without-tokens": "Use a smaller --fov-mm or a larger --size-px.",
    "case-score-input": "Use a scan that shows the body.",
    "cases-lone-truth": "Name the truth of X.nii.gz X{ending}.nii.gz, in the same folder.",
    "cases-missing": "Write paths relative to the table's own folder.",
    "cases-none": "Give a folder of volume files, or a CSV table with the columns scan and truth.",
    "cases-table": "Write one row per scan, with an empty truth where it has no lesion.",
    "cases-twice": "Remove one of its rows.",
    "checkpoint-damaged": "Start the training again with --restart.",
    "checkpoint-other": "Repeat its command to resume it, or discard it with --restart.",
    "cluster-lost": "Start the scheduler and its workers, and repeat the command to resume.",
    "cluster-memory": "Raise --worker-memory, and repeat the command to try the scan again.",
    "cluster-missing": 'Install the packages: pip install "spatial-ar-anomaly[cluster]"',
    "cluster-unreachable": (
        "Check the address; for slurm the settings in ~/.config/dask/jobqueue.yaml."
    ),
    "cluster-version": "Install the same version on all machines, and restart the workers.",
    "constraints": "Make the list on that machine: PythonSlicer -m pip freeze > list.txt",
    "device-missing": "Use --device auto or --device cpu, or install a torch for this device.",
    "dicom-4d": _ONE_VOLUME,
    "dicom-compression": "Decompress the files, for example with gdcmconv or dcmdjpeg.",
    "dicom-gap": (
        "Export the series with its missing slices ({missing}), or score it as it is with "
        "--allow-gaps.",
        "Export each time or echo as a series of its own; {near} positions are nearly repeated.",
        "Export the complete series again; slices at two distances need a resampling to one.",
    ),
    "dicom-gap-plane": "Use a model of the plane in which the scan was taken.",
    "dicom-geometry": _EXPORT_SERIES,
    "dicom-grid": "Give the DICOM series itself.",
    "dicom-inverted": _CONVERT_SERIES,
    "dicom-localizer": "Choose another series with --series.",
    "dicom-lut": _CONVERT_SERIES,
    "dicom-mixed": _ONE_VOLUME,
    "dicom-mosaic": "Convert the series to NIfTI with dcm2niix, which takes mosaics apart.",
    "dicom-multiframe": _CONVERT_SERIES,
    "dicom-no-image": "Give the folder of the images, or export them again.",
    "dicom-one-slice": "Give the folder with all slices of the series.",
    "dicom-reference": "Leave --dicom out, or export the images again with their own UIDs.",
    "dicom-source": "Give the DICOM series, or leave --dicom out.",
    "dicomweb-missing": 'Install it: pip install "spatial-ar-anomaly[dicomweb]"',
    "encoder-architecture": "Use DINOv3 weights as transformers, timm or Meta publish them.",
    "encoder-busy": "Wait until that download has ended.",
    "encoder-cache": "Make room in the hub's cache folder, or set HF_HOME to another folder.",
    "encoder-cut": "Run the command again.",
    "encoder-damaged": "Download the weights again, all of their files into one folder.",
    "encoder-disk-full": "Free disk space, or set HF_HOME to a folder on another disk.",
    "encoder-format": (
        "Get the same weights as .safetensors from the hub's pages of timm or Meta, or convert "
        "them with safetensors.torch.save_file on a machine that may run their code."
    ),
    "encoder-gated": (
        "Accept the terms on {page} and log in with `hf auth login`, or "
        f"use {_UNGATED} or a local folder or .safetensors file."
    ),
    "encoder-hub-down": "Try again in a few minutes; a browser shows whether the hub answers.",
    "encoder-image-size": "Choose a --size-px that is a multiple of {patch_px}.",
    "encoder-layout": "Use the weights as published, without a head, or download them again.",
    "encoder-lfs-pointer": "Download the file itself, with `git lfs pull`.",
    "encoder-missing": (
        "Check the path or the hub id; `spatial-ar-anomaly encoders list` shows the encoders."
    ),
    "encoder-not-a-hub": (
        "Open the address in a browser: the network may ask for a login first. Check HF_ENDPOINT "
        "and HTTPS_PROXY."
    ),
    "encoder-not-finite": "Get the encoder's weights again, or use another encoder.",
    "encoder-not-found": (
        "Give its place with --encoder (a folder, a .safetensors file or a hub id)."
    ),
    "encoder-not-here": "`spatial-ar-anomaly encoders list` shows those on this machine.",
    "encoder-not-local": (
        "Get {hub_id} with `spatial-ar-anomaly encoders get` or --allow-download; or give a local "
        "folder or .safetensors file."
    ),
    "encoder-offline": (
        "Check the connection, HTTPS_PROXY and HF_HUB_OFFLINE; or copy the weights from another "
        "machine and give their folder or .safetensors file."
    ),
    "encoder-other": "Give the very encoder the model was trained on, with --encoder.",
    "encoder-proxy": (
        "Check HTTPS_PROXY (http://user:password@host:port; signs such as / # @ in a password "
        "as %2F %23 %40), or ask your IT to let the hub through."
    ),
    "encoder-shape": "Use the weights and the config.json of one model, or download them again.",
    "encoder-slow": "Try again, on a slow connection with a larger HF_HUB_DOWNLOAD_TIMEOUT.",
    "encoder-software": (
        f"{_INSTALL}. If it is there, a torchvision that does not fit the installed torch breaks "
        "it: reinstall or remove that."
    ),
    "encoder-tls": (
        "Have your IT install the network's certificate in the system, or set SSL_CERT_FILE to "
        "its .pem file. Check this machine's date, too."
    ),
    "encoder-token": (
        "Make a new token on your account's page at the hub (Settings, Access Tokens; the role "
        "'read' is enough), or log in again with `hf auth login`."
    ),
    "encoder-too-many": ("Wait {wait}, then try again.", "Wait a few minutes, then try again."),
    "encoder-unverified": (
        "Unset HF_ENDPOINT to use the hub itself, or get the files in another way and give "
        "their folder."
    ),
    "encoder-wrong-bytes": "Try again. A proxy or mirror may change the files that it passes on.",
    "home-missing": "Set HOME or SPATIAL_AR_ANOMALY_HOME to a folder that you may write to.",
    "input-damaged": "Copy or export it again.",
    "input-data-file": "Save the scan as one file (.nrrd or .mha), or keep both in one folder.",
    "input-empty": "Give a folder with volume files or a DICOM series.",
    "input-encoding": "Save it again from Slicer or another program, with gzip or uncompressed.",
    "input-format": (
        "For DICOM give the folder that holds the series; convert anything else to NRRD."
    ),
    "input-in-output": "Move the scans, or choose another --out.",
    "input-missing": "Check the path for typing errors.",
    "input-mixed": "Give the volume file, or choose the series with --series.",
    "input-name": "Rename it.",
    "input-several": "Give one of them.",
    "input-stand-in": "Download the file itself: with `git lfs pull`, or after signing in.",
    "input-unreadable": "Check that you may read it and that its drive is connected.",
    "internal": _REPORT,
    "job-unknown": _OTHER_PROGRAM,
    "kit-build": "Give one of the two.",
    "kit-damaged": "Copy the kit again, or make it again.",
    "kit-missing": "Give the folder that `spatial-ar-anomaly offline-kit` made.",
    "kit-other-platform": (
        "Make the kit with --platform {platform}.",
        "Make the kit for this machine's platform.",
    ),
    "kit-other-python": "Make the kit with --python-version {python_version}.",
    "kit-platform": "Name it as pip does: win_amd64, manylinux_2_28_x86_64, macosx_14_0_arm64.",
    "kit-unresolved": "Give the other machine's own list with --constraints.",
    "kit-version": "Update this program, or make the kit with this version.",
    "label-map": "Give the scan that the labels belong to.",
    "license-not-accepted": (
        "Run `spatial-ar-anomaly encoders get`, which shows the license and asks (for scripts: "
        "--accept-license)."
    ),
    "mask-empty": _MASK,
    "mask-missing": "Name the masks in a table (CSV) with the columns scan and mask.",
    "mask-outside": _MASK,
    "mask-place": _MASK,
    "mask-size": _MASK,
    "mask-values": _MASK,
    "modality-unsupported": (
        "Use another series, or convert it to NIfTI or NRRD to treat it as MR or CT."
    ),
    "model-ambiguous": (
        "Give the file's name or path; --folder leaves the working folder's files out."
    ),
    "model-damaged": _RESTORE_MODEL,
    "model-file": "Give a file that `spatial-ar-anomaly models export` wrote.",
    "model-geometry": (
        "Choose a model trained on such scans, or score it anyway with --allow-mismatch."
    ),
    "model-in-use": (
        "Wait until the detection or training with it has ended; close programs that use it."
    ),
    "model-mask": (
        "Give such a mask with --mask (in a table of cases: the column mask), or score all of the "
        "body with --allow-mismatch."
    ),
    "model-missing": (
        "Check the path or the name; `spatial-ar-anomaly models list` shows the models."
    ),
    "model-modality": (
        "Choose a model trained on {modality}, or score it anyway with --allow-mismatch."
    ),
    "model-name": _OTHER_NAME,
    "model-name-taken": _OTHER_NAME,
    "model-newer": "Update SpatialARAnomaly.",
    "model-older": "Train the model again from its normal scans.",
    "model-tampered": _RESTORE_MODEL,
    "model-unreadable": "Check that you may read the model.",
    "name-empty": "Give a --name, or leave it out.",
    "nll-missing": "Detect again.",
    "normal-changed": "Start the training again.",
    "normal-unusable": "Leave it out, or exclude all such scans with --skip-unusable.",
    "out-of-memory": (
        "Close other programs, or use a machine with more memory; a training needs less with a "
        "smaller --size-px."
    ),
    "orientation-missing": "Choose the other one, or leave --orientation out.",
    "orientation-unstated": (
        "Check the scan in a viewer; --allow-unstated-orientation uses such scans as they are."
    ),
    "output-exists": "Choose another place, or replace what is there with --overwrite.",
    "output-folder": "Choose another folder for the results.",
    "output-incomplete": _REPORT,
    "output-name": "Choose a short name of letters, digits, - and _.",
    "output-not-a-batch": "Choose a new --out.",
    "output-not-a-demo": "Choose another folder with --out.",
    "output-not-a-model": _OTHER_NAME,
    "output-not-a-training": "Choose another --out, or move that folder away.",
    "output-not-an-evaluation": "Choose another folder with --out.",
    "output-unwritable": (
        "Free disk space, connect the drive again, or choose another folder that you may write to."
    ),
    "package-missing": _INSTALL,
    "pacs-address": (
        "The login goes into SPATIAL_AR_ANOMALY_PACS_USER and _PASSWORD, or a netrc file; "
        "dicomweb+http:// is for servers without TLS."
    ),
    "pacs-certificate": (
        "Have the server's certificate renewed, or set SSL_CERT_FILE to the .pem file of the "
        "hospital's authority. Check this machine's date, too."
    ),
    "pacs-cut": _PACS_AGAIN,
    "pacs-failed": "Look into the server's log, then repeat the command.",
    "pacs-incomplete": "Wait until the series has arrived there, then repeat the command.",
    "pacs-login": (
        "Set SPATIAL_AR_ANOMALY_PACS_USER and SPATIAL_AR_ANOMALY_PACS_PASSWORD, or "
        "SPATIAL_AR_ANOMALY_PACS_TOKEN, or write them into a netrc file."
    ),
    "pacs-no-scan": "Correct the query of the address; it may name StudyInstanceUID.",
    "pacs-not-dicomweb": "Ask the PACS's administrator for the address of its DICOMweb service.",
    "pacs-not-found": "Correct the path or the UIDs of the address.",
    "pacs-offline": "Check the address, the network, and HTTPS_PROXY and NO_PROXY.",
    "pacs-several": "Name one with StudyInstanceUID or SeriesInstanceUID, or use `watch --once`.",
    "pacs-slow": _PACS_AGAIN,
    "pacs-store": "Look into the server's log: it may be full, or refuse such objects.",
    "pacs-tls": "Use the address of its TLS, or dicomweb+http:// within a trusted network.",
    "phantom-lesion-room": "Choose a smaller radius, or a grid that covers more of the brain.",
    "phantom-settings": "Correct the value.",
    "pip-certificate": "Behind a proxy that inspects traffic, set PIP_CERT to its certificates.",
    "pip-conflict": "Update this program; pip's output names the package.",
    "pip-disk": "Free disk space and try again.",
    "pip-failed": "Fix what pip's last lines name, then repeat the command.",
    "pip-network": "Check the connection and the proxy (HTTPS_PROXY).",
    "pip-no-version": "Use another Python: pip's output names the package.",
    "pip-permission": "Run it as a user who may write to this Python's folder.",
    "process-died": (
        "It may need too much memory: detect in it on its own, or use fewer --jobs. Repeat the "
        "command to try it again."
    ),
    "process-start": "Run `spatial-ar-anomaly doctor`, which checks the installation.",
    "protocol-unknown": _OTHER_PROGRAM,
    "request-unreadable": _OTHER_PROGRAM,
    "result-damaged": "Delete the scan's folder of results, then detect again.",
    "result-model": "Import that model again.",
    "result-scan": "Detect again: it searches changed scans.",
    "scan-extent": "Correct the unit of length in its header, or export it again.",
    "scan-table": "Write one row per scan, with the same word for all scans of a patient.",
    "scores-not-finite": "Make the scores again.",
    "series-ambiguous": "Choose one with --series NUMBER or UID, or give a folder with only one.",
    "series-missing": "Choose one of these with --series.",
    "series-of-file": "Leave --series out, or give the folder.",
    "size-not-patches": "Use --size-px {nearest_px}.",
    "size-not-positive": "Choose a larger --size-px.",
    "spacing-zero": "Export the scan again, or correct its header.",
    "spec-missing-key": _OTHER_PROGRAM,
    "spec-type": _OTHER_SPEC,
    "spec-unknown-key": _OTHER_PROGRAM,
    "spec-value": _OTHER_SPEC,
    "table-cell": _REPORT,
    "too-few-normals": "Give more scans.",
    "too-few-patients": (
        "Give scans of more patients, or name the patients in a table (CSV) with the columns scan "
        "and patient."
    ),
    "too-many-findings": "Lower --false-positive-rate or raise --min-volume-ml.",
    "torch-missing": _INSTALL,
    "training-diverged": "Lower --learning-rate.",
    "training-running": "Wait until it has ended, or choose another --out.",
    "training-unwritable": (
        "Free disk space or connect the drive again, then repeat the command: it resumes."
    ),
    "truth-place": _TRUTH,
    "truth-size": _TRUTH,
    "truth-values": _TRUTH,
    "uv-missing": 'Install it: pip install "spatial-ar-anomaly[kit]"',
    "volume-2d": "Save it as a 3-D volume with its position in the patient; one slice is enough.",
    "volume-4d": _ONE_VOLUME,
    "volume-color": "Convert it to gray values, or give another scan.",
    "volume-complex": "Save the magnitude of the image and use that.",
    "volume-constant": "Give another scan.",
    "volume-empty": "Export the scan again, or give another one.",
    "volume-too-large": "Crop or downsample it, or use a machine with more memory.",
    "volume-number": "Choose one of these.",
    "voxels-not-finite": "Export the scan again, or give another one.",
    "watch-model": "Choose another folder with --out for this model.",
    "watch-running": "Wait until it has ended, or choose another --out.",
    "watch-state": "Choose another --out, or move that file away: all series are new then.",
    "window-not-ct": "Leave out --window-hu.",
}
"""Hints by error code.

A `{fact}` stands for one of the error's facts. Of several hints, the first is shown
whose facts the error has.
"""


def hint(error: SpatialARError) -> str:
    """Return the hint for an error, or ''."""
    hints = HINTS.get(error.code, ())
    return error.fill(hints)

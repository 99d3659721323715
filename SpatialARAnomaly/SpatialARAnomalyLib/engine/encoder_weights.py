"""Where the weights of an encoder come from: a folder, a file, or the hub."""

import os
from pathlib import Path, PureWindowsPath

from .encoder_files import WeightFiles, read_file, read_folder
from .encoder_hub import hub_folder
from .errors import EncoderError
from .hub_cache import is_hub_id, looks_like_path
from .progress import Reporter


def read_weights(
    source: str, *, allow_download: bool = False, report: Reporter | None = None
) -> WeightFiles:
    """The weights in a folder, in a `.safetensors` file, or under the hub id `owner/name`.

    A path that exists wins over a hub id.

    Raises `EncoderError`: `encoder-missing`, and those of reading files and of
    the hub.
    """
    path = Path(source).expanduser()
    if os.path.isdir(path):  # `Path.is_dir` raises where a folder may not be searched
        return read_folder(path)
    if os.path.isfile(path):
        return read_file(path)
    if looks_like_path(source):
        raise EncoderError(
            "encoder-missing",
            f"Expected a folder or a .safetensors file; there is no "
            f"'{PureWindowsPath(source).name}' at the path given.",
        )
    if not is_hub_id(source):
        raise EncoderError(
            "encoder-missing",
            "Expected 'demonstration', a folder, a .safetensors file or a hub id "
            f"'owner/name'; found '{source}'.",
        )
    folder = hub_folder(source, allow_download=allow_download, report=report)
    return read_folder(folder, name=source, revision=folder.name)

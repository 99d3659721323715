"""The module `SampleData`: data sets that modules register. Here nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import slicer


class DownloadInTestError(RuntimeError):
    """A test tried to download a file."""


@dataclass
class SampleDataSource:
    """One registered data set."""

    sampleName: str | None = None
    sampleDescription: str | None = None
    uris: Any = None
    fileNames: Any = None
    nodeNames: Any = None
    checksums: Any = None
    loadFiles: Any = None
    customDownloader: Callable | None = None
    thumbnailFileName: str | None = None
    loadFileTypes: Any = None
    loadFileProperties: dict = field(default_factory=dict)

    _PER_FILE = ("uris", "fileNames", "nodeNames", "checksums", "loadFiles", "loadFileTypes")

    def __post_init__(self) -> None:
        if self.sampleDescription is None:
            self.sampleDescription = self.sampleName
        if isinstance(self.uris, str):
            for name in self._PER_FILE:
                setattr(self, name, [getattr(self, name)])
        elif self.uris is not None:
            for name in self._PER_FILE:
                if getattr(self, name) is None or isinstance(getattr(self, name), str):
                    setattr(self, name, [getattr(self, name)] * len(self.uris))
        if self.uris is None:
            raise TypeError("a sample data source needs uris; Slicer takes their number")
        lengths = {name: len(getattr(self, name) or ()) for name in self._PER_FILE}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"All fields of sample data source must have the same length: {lengths}"
            )


class SampleDataLogic:
    """Registers data sets and loads them."""

    def __init__(self, logMessage: Callable | None = None):
        if logMessage is not None:
            self.logMessage = logMessage

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        """Give the category a title."""
        if not hasattr(slicer.modules, "sampleDataSourceCategories"):
            slicer.modules.sampleDataSourceCategories = {}
        slicer.modules.sampleDataSourceCategories.setdefault(category, {})["title"] = title

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Callable | None = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: dict | None = None,
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        """Register a data set; the same one twice counts once."""
        if loadFileType is not None and loadFileTypes is not None:
            raise ValueError("loadFileType and loadFileTypes cannot be specified at the same time")
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileTypes=loadFileTypes or loadFileType,
            loadFiles=loadFiles,
            loadFileProperties=dict(loadFileProperties or {}),
            checksums=checksums,
        )
        sources = SampleDataLogic.sampleDataSourcesByCategory()
        if source not in sources.setdefault(category, []):
            sources[category].append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        """The data sets of the category; without one, of all in a dictionary."""
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources.get(category, [])

    @staticmethod
    def isSampleDataSourceRegistered(category: str, sampleDataSource: SampleDataSource) -> bool:
        """Return True if the data set is registered."""
        return sampleDataSource in SampleDataLogic.sampleDataSourcesByCategory(category)

    def sourceForSampleName(self, sampleName: str) -> SampleDataSource | None:
        """The data set of that name, whatever its category."""
        for sources in self.sampleDataSourcesByCategory().values():
            for source in sources:
                if source.sampleName == sampleName:
                    return source
        return None

    def downloadFromSource(self, source: SampleDataSource, *args: Any, **kwargs: Any) -> Any:
        """Raise an error: a test downloads nothing.

        Slicer too downloads the URIs here and runs no custom downloader.
        """
        raise DownloadInTestError(
            f"a test would download {source.uris}; a custom downloader runs at a click on the "
            "data set only: click_sample()"
        )

    def downloadSamples(self, sampleName: str) -> Any:
        """Everything the data set of that name loads; nothing if there is none."""
        source = self.sourceForSampleName(sampleName)
        return self.downloadFromSource(source) if source else []

    def downloadSample(self, sampleName: str) -> Any:
        """The first node that the data set of that name loads."""
        return self.downloadSamples(sampleName)[0]


def downloadSample(sampleName: str) -> Any:
    """The first node that the data set of that name loads."""
    return SampleDataLogic().downloadSample(sampleName)


def downloadSamples(sampleName: str) -> Any:
    """Load the data set of that name; return its nodes."""
    return SampleDataLogic().downloadSamples(sampleName)


def click_sample(name: str) -> Any:
    """Only in the harness: do what a click on the data set in the module SampleData does."""
    source = SampleDataLogic().sourceForSampleName(name)
    if source is None:
        raise KeyError(f"no data set '{name}' is registered")
    if source.customDownloader:
        return source.customDownloader(source)
    return SampleDataLogic().downloadFromSource(source)

"""The packages that Slicer itself brings, for a kit made where no Slicer is."""

SLICER_PYTHON = "3.12"
"""Python of Slicer 5.10 to 5.13."""

SLICER_5_12 = {
    "certifi": "2026.5.20",
    "cffi": "2.0.0",
    "chardet": "7.4.3",
    "charset-normalizer": "3.4.7",
    "cryptography": "48.0.0",
    "dcmqi": "0.4.0",
    "deprecated": "1.3.1",
    "dicomweb-client": "0.61.0",
    "gitdb": "4.0.12",
    "gitpython": "3.1.50",
    "highdicom": "0.27.0",
    "idna": "3.16",
    "numpy": "2.4.6",
    "packaging": "26.2",
    "pillow": "12.2.0",
    "pip": "26.1.1",
    "pycparser": "3.0",
    "pydicom": "3.0.2",
    "pygithub": "2.9.1",
    "pyjpegls": "1.5.1",
    "pyjwt": "2.13.0",
    "pynacl": "1.6.2",
    "pyparsing": "3.3.2",
    "python-dateutil": "2.9.0.post0",
    "requests": "2.34.2",
    "retrying": "1.4.2",
    "scipy": "1.17.1",
    "setuptools": "82.0.1",
    "simpleitk": "2.5.5",
    "six": "1.17.0",
    "smmap": "5.0.3",
    "typing-extensions": "4.15.0",
    "urllib3": "2.7.0",
    "wheel": "0.47.0",
    "wrapt": "2.2.1",
}
"""Versions by normalized name, of Slicer's `SuperBuild/External_python-*.cmake`."""

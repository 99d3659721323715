"""Replacements for Slicer's own Python files, which no wheel carries.

They have the same names as in Slicer (`slicer.i18n`, ...) and do what modules rely on. With the
environment variable SLICER_PYTHON_DIR Slicer's own files are used instead, by the same tests.
"""

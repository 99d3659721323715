"""The type checker of the tests: shapes, dtypes and values of every annotated function."""

from beartype import BeartypeConf, beartype

# Python lets an int pass for a float, and so do our annotations (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))

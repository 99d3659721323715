"""The parts of the speed benchmark.

timing (things run in turn), machine (where), tables (what comes out) and growth (fits
of powers) → the parts, each a module with `run(options) -> list[Table]` → command.
"""

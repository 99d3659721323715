"""The parts of the speed benchmark.

timing (alternating measurements), machine (where it ran), tables (results) and growth (fitted
powers) → the parts, each a module with `run(options) -> list[Table]` → command.
"""

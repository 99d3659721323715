"""Where the time of a job went."""

import time


class Clock:
    """Seconds of every stage of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Note the time since the last lap as that of a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now

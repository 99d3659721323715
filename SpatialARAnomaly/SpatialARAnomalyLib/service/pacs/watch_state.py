"""What a watch has seen and done, in a database that survives kills."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service.pacs.client import PacsSeries

ARRIVING, DONE, REFUSED, FAILED = "arriving", "done", "refused", "failed"
STATES = (ARRIVING, DONE, REFUSED, FAILED)
"""States of a series; the last three are final."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    uid TEXT PRIMARY KEY, study TEXT NOT NULL, number INTEGER, modality TEXT NOT NULL,
    images INTEGER NOT NULL, since_s REAL NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL,
    tries INTEGER NOT NULL, model TEXT NOT NULL
)
"""


class WatchState:
    """The series of a watch: one row each, written before and after it is processed."""

    def __init__(self, connection: sqlite3.Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def see(self, found: Iterable[PacsSeries], now_s: float) -> None:
        """Note series with their numbers of images, and when those changed last."""
        rows = [
            (one.uid, one.study, one.number, one.modality, one.images, now_s, ARRIVING, self._model)
            for one in found
        ]
        with self._connection:
            self._connection.executemany(
                "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, '', 0, ?) ON CONFLICT (uid) DO "
                "UPDATE SET since_s = excluded.since_s, images = excluded.images "
                "WHERE state = 'arriving' AND images != excluded.images",
                rows,
            )

    def list_ready(self, until_s: float) -> list[PacsSeries]:
        """Return the series that are not done and have not changed since a time, oldest first."""
        rows = self._connection.execute(
            "SELECT study, uid, number, modality, images FROM series "
            "WHERE state = 'arriving' AND since_s <= ? ORDER BY since_s, uid",
            (until_s,),
        )
        return [
            PacsSeries(study=study, uid=uid, number=number, modality=modality, images=images)
            for study, uid, number, modality, images in rows
        ]

    def begin(self, uid: str) -> tuple[int, str]:
        """Note that a series is tried once more; return how often, and the last try's code."""
        with self._connection:
            self._connection.execute("UPDATE series SET tries = tries + 1 WHERE uid = ?", (uid,))
        tries, code = self._connection.execute(
            "SELECT tries, code FROM series WHERE uid = ?", (uid,)
        ).fetchone()
        return int(tries), str(code)

    def undo_begin(self, uid: str) -> None:
        """Take a try back that says nothing of the series."""
        with self._connection:
            self._connection.execute("UPDATE series SET tries = tries - 1 WHERE uid = ?", (uid,))

    def note(self, uid: str, state: str, code: str) -> None:
        """Note the outcome of a try."""
        with self._connection:
            self._connection.execute(
                "UPDATE series SET state = ?, code = ? WHERE uid = ?", (state, code, uid)
            )

    def counts(self) -> dict[str, int]:
        """Return the numbers of series by state."""
        rows = dict(self._connection.execute("SELECT state, COUNT(*) FROM series GROUP BY state"))
        return {state: int(rows.get(state, 0)) for state in STATES}


@contextmanager
def open_state(file: Path, model: str) -> Iterator[WatchState]:
    """Open or make the state of a watch with a model (its hash).

    Raises `OutputError` for a file that is no state, or that of a watch with another model.
    """
    with closing(sqlite3.connect(file)) as connection:
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
            known = {row[0] for row in connection.execute("SELECT DISTINCT model FROM series")}
        except sqlite3.Error:
            raise OutputError(
                "watch-state", f"{file.name!r} is damaged, or not the state of a watch."
            ) from None
        if known - {model}:
            raise OutputError(
                "watch-model", "The folder holds the results of a watch with another model."
            )
        yield WatchState(connection, model)

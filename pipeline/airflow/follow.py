"""What happens to a DAG, in lines for a person; read from Airflow's database."""

from __future__ import annotations

import datetime
import time

_MARKS = {"success": "✓", "failed": "✗", "upstream_failed": "-", "up_for_retry": "↻"}
# A change is written down a moment after the time that it bears.
_OVERLAP = datetime.timedelta(minutes=1)
# Run and task (a run itself has none), state, seconds.
_Row = tuple[tuple[str, str], str, float]


class Follow:
    """Changes of a DAG's tasks and runs from now on, and why its file `file` cannot be read."""

    def __init__(self, dag_id: str, file: str) -> None:
        self._dag_id, self._file = dag_id, file
        self._start = self._since = datetime.datetime.now(datetime.UTC)
        self._seen: dict[tuple[str, str], str] = {}
        self._errors: set[str] = set()

    def changes(self) -> list[str]:
        """A line for every change since the last call; none while the database does not answer."""
        # Only now: Airflow reads its settings when it is imported.
        from sqlalchemy.exc import SQLAlchemyError

        now = datetime.datetime.now(datetime.UTC)
        try:
            rows, errors = self._look()
        except SQLAlchemyError:
            # Locked or starting: what happens meanwhile is found by the next look.
            return []
        self._since = max(self._start, now - _OVERLAP)
        lines = [
            f"{_clock()}  Airflow cannot read {self._file}: {error}"
            for error in errors - self._errors
        ]
        self._errors |= errors
        for (run, task), state, seconds in rows:
            if self._seen.get((run, task)) != state and (not task or state in _MARKS):
                lines.append(_line(run, task, state, seconds))
            self._seen[run, task] = state
        return lines

    def _look(self) -> tuple[list[_Row], set[str]]:
        from airflow.models import DagRun, TaskInstance
        from airflow.models.errors import ParseImportError
        from airflow.utils.session import create_session

        with create_session() as session:
            tasks = session.query(
                TaskInstance.run_id, TaskInstance.task_id, TaskInstance.state, TaskInstance.duration
            ).filter(TaskInstance.dag_id == self._dag_id, TaskInstance.updated_at >= self._since)
            runs = session.query(DagRun.run_id, DagRun.state).filter(
                DagRun.dag_id == self._dag_id, DagRun.updated_at >= self._since
            )
            errors = session.query(ParseImportError.stacktrace).filter(
                ParseImportError.filename == self._file, ParseImportError.timestamp >= self._start
            )
            rows = [
                ((run, task), state or "", seconds or 0.0) for run, task, state, seconds in tasks
            ]
            rows += [((run, ""), state, 0.0) for run, state in runs]
            return rows, {" ".join(text.split()) for (text,) in errors}


def _line(run: str, task: str, state: str, seconds: float) -> str:
    if not task:
        return f"{_clock()}  {run}: {state}"
    return f"{_clock()}    {_MARKS[state]} {task:<18} {seconds:7.1f} s  {state}"


def _clock() -> str:
    return time.strftime("%H:%M:%S")

"""What was: runs, metric rows, workers and dead letters as frames, from the server and the archive."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from toolkit import renderers
from toolkit.client.feed import MetricsFeed, metrics_from
from toolkit.client.selecting import Known, Selection, known_runs, task_name
from toolkit.client.watching import RunsWatch
from toolkit.errors import InvalidInput
from toolkit.ledger import Ledger, Reader, Registry
from toolkit.records import one_line
from toolkit.settings import LedgerSettings

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.archive import Archive, Archived, RunKey

SOURCES: Final = ("both", "server", "archive")


class History:
    """The part of a client that looks back; see `toolkit.Client`."""

    settings: LedgerSettings
    _ledger: Ledger
    _registry: Registry
    _archive_path: Path | None

    def runs(
        self, task: Any = None, *, since: datetime | str | float | None = None,
        until: datetime | str | float | None = None,
        tags: Mapping[str, str] | None = None, states: str | Collection[str] | None = None, source: str = "both",
    ) -> pd.DataFrame:  # fmt: skip
        """One row per run, newest first; columns and units in `toolkit.frames.RUNS`.

        Parameters
        ----------
        task : callable or str, optional
            Only runs of this task.
        since, until : datetime, str or float, optional
            Only runs created at or after, and before, these moments (UTC when they have no zone; a number
            is seconds since 1970, as `RunStatus` says them).
        tags : mapping of str to str, optional
            Only runs that carry all of these.
        states : str or collection of str, optional
            Only runs in one of these states: running, paused, cancelling, cancelled, finished.
        source : str
            ``server``, ``archive`` or ``both``, where a run that is in both comes from the server.

        Raises
        ------
        InvalidInput
            A filter is none; `UnknownTask` where `task` is no task.
        ArchiveError, MissingDependency
            The archive cannot be read; pass ``source="server"`` to do without.
        """
        from toolkit import frames

        chosen = Selection.parse(task, since, until, tags, states)
        live = self._live(source)
        frame = frames.runs_frame([known for known in live if chosen.matches(*known)])
        archive = self._archive(source)
        if archive is None:
            return frame
        archived, keys = archive.known_runs(chosen.task)
        hidden = _keys(live)
        keep = [mine and key not in hidden for mine, key in zip(chosen.mask(archived), keys, strict=True)]
        both = frames.schema.concat(frames.RUNS, [frame, archived[keep]])
        return both.sort_values("created_at", ascending=False, kind="stable", ignore_index=True)

    def _check_recorded(self, task: str) -> None:
        """Raise unless some run is recorded under that name.

        Raises
        ------
        InvalidInput
            There is none; says which names there are.
        """
        known = sorted(set(self.runs()["task"].astype(str)))
        if task in known:
            return
        close = difflib.get_close_matches(task, known, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        listing = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
        what = f"task {task!r}: no run of that name is recorded{hint} Known tasks: {listing or 'none yet'}"
        raise InvalidInput(one_line(what, 2000))

    def metrics(
        self, task: Any = None, *, since: datetime | str | float | None = None,
        until: datetime | str | float | None = None,
        tags: Mapping[str, str] | None = None, states: str | Collection[str] | None = None, source: str = "both",
    ) -> pd.DataFrame:  # fmt: skip
        """Metric rows of many runs: one row per executed batch; columns and units in `toolkit.frames.METRICS`.

        Parameters
        ----------
        task, since, until, tags, states, source
            Which runs, as for `runs`; also a `Run`, for its rows alone.

        Returns
        -------
        pandas.DataFrame
            By run, newest first, those of the archive after those on the server; of a run in the order of commits.

        Raises
        ------
        InvalidInput, ArchiveError, MissingDependency
            As for `runs`; also a name that neither a run nor a node has.
        """
        from toolkit import frames

        chosen = Selection.parse(task, since, until, tags, states)
        live = self._live(source)
        if isinstance(task, str) and source == "both" and not any(spec.task == task for spec, _ in live):
            self._check_known(task, live)
        found, gone = [], []
        for spec, status in live:
            if chosen.matches(spec, status) and status.batches:
                reader = Reader(self._ledger.connection, spec.run_id)
                frame, rows = metrics_from(reader, spec, status.max_workers)
                if rows < status.batches:  # deleted or expired this very moment: the archive has all of it
                    gone.append((spec, status))
                else:
                    found.append(frame)
        archive = self._archive(source)
        if archive is not None:
            keys = _selected(archive, chosen, _keys(live) - _keys(gone))
            found.append(archive.metrics(keys))
        return frames.concat_metrics(found)

    def follow_metrics(
        self, task: Any = None, *, since: datetime | str | float | None = None,
        until: datetime | str | float | None = None,
        tags: Mapping[str, str] | None = None, states: str | Collection[str] | None = None,
        cursor: Mapping[str, int] | None = None,
    ) -> MetricsFeed:  # fmt: skip
        """Metric rows as they come: each `MetricsFeed.pull` returns those that were recorded since the one before.

        Parameters
        ----------
        task, since, until, tags, states
            Which runs on the server, as for `runs`; those that are submitted later included.
        cursor : mapping of str to int, optional
            `MetricsFeed.cursor` of an earlier feed, to go on where that one stopped.

        Raises
        ------
        InvalidInput
            A filter or the cursor is none.
        """
        chosen = Selection.parse(task, since, until, tags, states)
        return MetricsFeed(
            lambda: [known for known in self._live("server") if chosen.matches(*known)],
            self._ledger.connection,
            cursor,
        )

    def panel(self, text: str = "", state: str = "all") -> None:
        """Show all runs below the cell, live: progress, pace, time left, failures, backlog, workers, dead letters.

        Without a notebook, one picture as text; ``toolkit top`` is the same, live, in a terminal.

        Parameters
        ----------
        text : str
            Only runs that hold each of these words in their name, task, id, queue or tags; can be changed in the view.
        state : str
            ``all``, ``unfinished``, ``failing``, or a state of a run; likewise.

        Raises
        ------
        InvalidInput
            `state` is none of them.
        """
        show = renderers.get("client_display")
        if show is None:
            raise InvalidInput("panel: nothing draws here; import toolkit, which brings the views")
        show(self, text, state)

    def watch_runs(self, latest: int | None = None) -> RunsWatch:
        """For views: looks at all runs of the server again and again, reading only what may have changed.

        Parameters
        ----------
        latest : int, optional
            Runs that have ended which stay in sight, the newest; without, only those with dead letters.
        """
        return RunsWatch(self._ledger, latest)

    def workers(self) -> pd.DataFrame:
        """One row per node that is alive; columns and units in `toolkit.frames.WORKERS`."""
        from toolkit import frames

        return frames.workers_frame(self._registry.nodes())

    def dead_letters(self, *, source: str = "server") -> pd.DataFrame:
        """Dead letters of all runs; columns in `toolkit.frames.DEAD_LETTERS`.

        Parameters
        ----------
        source : str
            ``server``: those that wait for a decision. ``archive``: every one that was archived, also those that were
            retried or dropped later. ``both``: the first, and of runs that are only in the archive the second.

        Raises
        ------
        InvalidInput, ArchiveError, MissingDependency
            As for `runs`.
        """
        from toolkit import frames

        live = self._live(source)
        found = [
            frames.dead_letters_frame(
                spec.run_id, spec.task, Reader(self._ledger.connection, spec.run_id).dead_letters()
            )
            for spec, status in live
            if status.dead
        ]
        archive = self._archive(source)
        if archive is not None:
            found.append(archive.dead_letters(_selected(archive, Selection(), _keys(live))))
        return frames.concat_dead_letters(found)

    def explore(self, task: Any = None) -> Any:
        """Open the metrics explorer over what `metrics` returns: pick runs and axes, see figures.

        Parameters
        ----------
        task : callable or str, optional
            The task to begin with; by default all.

        Returns
        -------
        MetricsExplorer
            As the last value of a cell it shows itself.

        Raises
        ------
        InvalidInput
            No metric row of `task` is recorded.
        MissingDependency
            ipywidgets is not installed.
        """
        show = renderers.get("explore")
        if show is None:
            raise InvalidInput("explore: nothing draws here; import toolkit, which brings the views")
        return show(self, None if task is None else task_name(task))

    def archive(self, path: str | Path | None = None) -> Archived:
        """Write ended runs, their metric rows and dead letters, and rows of instrumented tasks into a Parquet dataset.

        Call it as often as you like: it writes what is new, whole files only, and changes none. Nothing is deleted on
        the server. `runs` and `metrics` read the archive at the default place too; pandas, DuckDB and Polars read
        ``runs``, ``rows``, ``dead_letters`` and ``series`` below it as they lie.

        Parameters
        ----------
        path : str or Path, optional
            Its directory; by default ``TOOLKIT_ARCHIVE``, else ``archive`` in the LocalCluster's state directory.

        Returns
        -------
        Archived
            What was written, what was there already, what has not ended, and what could not be read.

        Raises
        ------
        InvalidInput
            No place is known: on a shared deployment there is no default.
        ArchiveError
            The place cannot be written, or another process is writing to it.
        MissingDependency
            pyarrow is not installed.
        """
        from toolkit.archive import archive_all

        place = self._archive_path if path is None else Path(path).expanduser().absolute()
        if place is None:
            raise InvalidInput(
                "archive: pass path=... or set TOOLKIT_ARCHIVE; on a shared deployment there is no default"
            )
        return archive_all(self._ledger, self._registry, place)

    # ------------------------------------------------------------------ inside

    def _check_known(self, task: str, live: Collection[Known]) -> None:
        """Refuse a name that neither a run nor a node has: far more often a typing error than a task without a past."""
        if any(spec.run_id == task for spec, _ in live):
            raise InvalidInput(
                f"{task!r} is the id of a run and no task: client.get_run({task!r}).metrics() has its rows"
            )
        if not any(task in node.tasks for node in self._registry.nodes()):
            self._check_recorded(task)

    def _live(self, source: str) -> list[Known]:
        if source not in SOURCES:
            raise InvalidInput(f"source={source!r:.60}: one of {', '.join(SOURCES)}")
        return [] if source == "archive" else known_runs(self._ledger, self._registry)

    def _archive(self, source: str) -> Archive | None:
        """The archive at the default place, None where there is none or it is not wanted."""
        from toolkit.archive import Archive

        if source == "server" or self._archive_path is None or not self._archive_path.is_dir():
            if source == "archive" and self._archive_path is None:
                raise InvalidInput('source="archive": no archive is known; set TOOLKIT_ARCHIVE')
            return None
        return Archive(self._archive_path)


def _keys(runs: Collection[Known]) -> set[RunKey]:
    from toolkit.archive import RunKey

    return {RunKey.of(status) for _, status in runs}


def _selected(archive: Archive, chosen: Selection, hidden: Collection[RunKey]) -> list[RunKey]:
    """Runs of the archive that are meant and not hidden, newest first."""
    frame, keys = archive.known_runs(chosen.task)
    return [key for mine, key in zip(chosen.mask(frame), keys, strict=True) if mine and key not in hidden]

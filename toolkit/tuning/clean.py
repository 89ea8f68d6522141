"""From a metric frame to histories: bad rows out, warm-up and dispatch apart, like batches aggregated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import TuningError
from toolkit.tuning.history import Array, Cells, RunSummary, TaskHistory
from toolkit.tuning.versions import one_version

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("run_id", "task", "items", "service_s", "claimed_at")
LONGEST_GAP_S = 0.25  # a worker that waits longer between two batches waits for work, not for dispatch
TAIL_BATCHES = 256  # sizes of a run's last batches that are kept in order
_SMALL = 65_536  # numbers below fit into 16 bits, which are sorted by their digits
_EXACT_SIZES = 64  # with more distinct batch sizes than this, sizes within 5 % share a cell
_MEMORY_POINTS = 200


@dataclass(slots=True)
class _Rows:
    """Usable rows of one task, sorted by run and claim, as arrays of one length."""

    run: NDArray[np.int64]
    worker: NDArray[np.int64]
    host: NDArray[np.int64]
    claimed: Array
    items: Array
    asked: Array
    spent: Array
    idle: Array
    active: Array
    cap: Array
    failed: Array
    rss: Array
    cpu: Array
    first: NDArray[np.bool_]
    cut_off: NDArray[np.bool_]

    def take(self, index: NDArray[Any]) -> _Rows:
        return _Rows(*(getattr(self, name)[index] for name in self.__slots__))


def clean(frame: pd.DataFrame, processes: Mapping[str, Collection[str]] | None = None) -> dict[str, TaskHistory]:
    """Return a history for each task of a metric frame.

    Parameters
    ----------
    frame : DataFrame
        One row per batch, with the columns of ``run.metrics()``; those of `REQUIRED` are needed, others are used.
    processes : mapping of str to collection of str, optional
        For each task the workers that are known to have run it before.

    Returns
    -------
    dict of str to TaskHistory
        A task without a usable row is there too, with no runs.

    Raises
    ------
    TuningError
        `frame` is no DataFrame, or a required column is missing.
    """
    if not hasattr(frame, "columns"):
        what = f"{type(frame).__name__} given"
        raise TuningError(f"{what}: metric rows are a DataFrame, pass what run.metrics() or client.metrics() returns")
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise TuningError(f"no column {', '.join(missing)}; pass what run.metrics() or client.metrics() returns")
    codes, tasks = _codes(frame["task"])
    out = {}
    for code, task in enumerate(tasks):
        mine = frame if len(tasks) == 1 and (codes == 0).all() else frame[codes == code]
        if len(mine):
            out[task] = _clean_task(task, mine, frozenset((processes or {}).get(task, ())))
    return out


def _codes(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Integer codes of a column of names, -1 for missing or empty ones, and the names."""
    import pandas as pd

    codes, names = pd.factorize(column)
    texts = [str(name) for name in names]
    if "" in texts:
        codes = np.where(codes == texts.index(""), -1, codes)
    return np.asarray(codes, dtype=np.int64), texts


def _numbers(frame: pd.DataFrame, name: str, default: float) -> Array:
    if name not in frame.columns:
        return np.full(len(frame), default)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _known(frame: pd.DataFrame, name: str, missing: float = 0.0) -> Array:
    """A column of numbers with `missing` where it has none."""
    found = _numbers(frame, name, missing)
    return found if np.isfinite(found).all() else np.nan_to_num(found, nan=missing)


def _truths(frame: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    if name not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    return frame[name].to_numpy(dtype=bool, na_value=False)


def _epoch_s(column: Any) -> Array:
    """Moments as seconds since the epoch, NaN for missing ones."""
    import pandas as pd

    moments = pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    seconds = moments.astype(np.int64) / 1e6
    seconds[np.isnat(moments)] = np.nan
    return np.asarray(seconds, dtype=np.float64)


def _clean_task(task: str, frame: pd.DataFrame, known: frozenset[str]) -> TaskHistory:
    versions = one_version(frame)
    frame, version = versions.frame, versions.version
    dropped: dict[str, int] = {"other code version": versions.left_out} if versions.left_out else {}
    run_codes, run_ids = _codes(frame["run_id"])
    worker_codes, workers = _codes(frame["worker"]) if "worker" in frame.columns else (run_codes * 0 - 1, [])
    host_codes, hosts = _codes(frame["host"]) if "host" in frame.columns else (run_codes * 0 - 1, [])
    service = _numbers(frame, "service_s", np.nan)
    extra = [_known(frame, name).clip(0) for name in ("decode_s", "store_s")]
    rows = _Rows(
        run=run_codes,
        worker=worker_codes,
        host=np.maximum(host_codes, 0),
        claimed=_epoch_s(frame["claimed_at"]),
        items=_numbers(frame, "items", np.nan),
        asked=_numbers(frame, "batch_size", np.nan),
        spent=service + extra[0] + extra[1],
        idle=_numbers(frame, "idle_s", np.nan),
        active=_known(frame, "active_claims"),
        cap=_known(frame, "max_workers"),
        failed=_known(frame, "failed"),
        rss=_known(frame, "peak_rss_bytes"),
        cpu=_known(frame, "cpu_user_s") + _known(frame, "cpu_system_s"),
        first=_truths(frame, "first_in_process"),
        cut_off=_truths(frame, "cut_off"),
    )
    sound = _sound(rows, service, frame, dropped)
    # One copy of everything, and none where the rows come in order, as those of a single run do.
    kept = np.flatnonzero(sound)
    kept = kept[np.lexsort((rows.claimed[kept], rows.run[kept]))]
    rows = rows if np.array_equal(kept, np.arange(len(rows.run))) else rows.take(kept)
    if rows.cut_off.any():
        dropped["cut off"] = int(rows.cut_off.sum())
    seen = np.array([name in known for name in workers] or [True], dtype=bool)
    cells, runs = _condense(rows, run_ids, ~seen, hosts or [""])
    ran = [workers[code] for code in np.unique(rows.worker) if code >= 0]
    return TaskHistory(task, cells, runs, tuple(hosts) or ("",), tuple(ran), _memory(rows), version, dropped)


def _sound(rows: _Rows, service: Array, frame: pd.DataFrame, dropped: dict[str, int]) -> NDArray[np.bool_]:
    """Which rows are used; of the others `dropped` is told how many there are of each kind."""
    from toolkit.tuning.suspect import duplicated, far_out, skewed

    with np.errstate(invalid="ignore"):
        usable = (rows.items >= 1) & np.isfinite(rows.items) & (service >= 0) & np.isfinite(rows.spent)
        usable &= np.isfinite(rows.claimed) & (rows.run >= 0)
    if not usable.all():
        dropped["unusable"] = int((~usable).sum())

    def drop(name: str, index: NDArray[np.int64] | slice, found: NDArray[np.bool_]) -> None:
        if found.any():
            usable[index] &= ~found
            dropped[name] = int(found.sum())

    at = _where(usable)
    offset = _known(frame, "first_index", -1.0)[at]
    same = (rows.run[at], rows.worker[at], rows.claimed[at], rows.items[at], rows.spent[at], offset)
    drop("duplicated", at, duplicated(*same))
    at = _where(usable)
    drop("clock skewed", at, skewed(rows.run[at], rows.claimed[at], rows.spent[at]))
    at = _where(usable & ~rows.cut_off)  # time limits explain such rows
    drop("far out", at, far_out(rows.items[at], rows.spent[at], rows.first[at], rows.run[at]))
    return usable


def _where(mask: NDArray[np.bool_]) -> NDArray[np.int64] | slice:
    """Index of what is true, which copies nothing where all is."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def _condense(
    rows: _Rows, run_ids: list[str], fresh: NDArray[np.bool_], hosts: list[str]
) -> tuple[Cells, tuple[RunSummary, ...]]:
    """Aggregate rows to cells and runs; `fresh` says of each worker that it had not run the task before."""
    starts = np.flatnonzero(np.r_[True, np.diff(rows.run) != 0]) if len(rows.run) else np.zeros(0, dtype=np.int64)
    ends = np.r_[starts[1:], len(rows.run)].astype(np.int64)
    order = np.argsort(rows.claimed[starts], kind="stable")
    fresh = fresh.copy()
    busy = np.ones(len(rows.run))
    cold = np.zeros(len(rows.run), dtype=bool)
    position = np.zeros(len(rows.run), dtype=np.int64)
    summaries = []
    for place, at in enumerate(order):
        part = slice(int(starts[at]), int(ends[at]))
        summary, busy[part] = _one_run(run_ids[rows.run[part.start]], rows, part, fresh, hosts)
        position[part] = place
        firsts = np.flatnonzero(rows.first[part]) + part.start
        cold[firsts] = fresh[rows.worker[firsts]] & (rows.worker[firsts] >= 0)
        fresh[rows.worker[part][rows.worker[part] >= 0]] = False
        summaries.append(summary)
    return _cells(rows, position, busy, cold), tuple(summaries)


def _one_run(
    run_id: str, rows: _Rows, part: slice, fresh: NDArray[np.bool_], hosts: list[str]
) -> tuple[RunSummary, Array]:
    """Summary of one run, and for each of its batches how many workers were busy meanwhile."""
    origin = rows.claimed[part.start]
    claimed, spent, worker = rows.claimed[part] - origin, rows.spent[part], rows.worker[part]
    items = rows.items[part].astype(np.int64)
    start, gaps, heads = _serial(claimed, spent, worker, rows.idle[part])
    end = start + spent
    busy, most, pauses_s = _concurrency(start, end)
    cap = int(rows.cap[part].max())
    most = min(most, cap) if cap > 0 else most
    offsets = np.sort(start[heads])[: max(1, most)] if len(heads) else np.zeros(1)
    heads = heads[worker[heads] >= 0]
    used = worker[heads]
    counts = np.bincount(rows.host[part][heads], minlength=len(hosts))
    asked = rows.asked[part]
    asked = np.where(np.isfinite(asked) & (asked >= 1), asked, items)
    sizes, moved = _totals(asked.astype(np.int64), items)
    body = items[:-TAIL_BATCHES]
    known = gaps[np.isfinite(gaps)]
    summary = RunSummary(
        run_id=run_id,
        started_at=float(origin),
        ended_at=float(origin + end.max()),
        pauses_s=pauses_s,
        workers=max(1, most),
        batch_size=int(sizes[np.argmax(moved)]),
        items=int(items.sum()),
        batches=len(items),
        spent_s=float(spent.sum()),
        gap_s=float(known.mean()) if known.size else float("nan"),
        gaps=int(known.size),
        stagger_s=float(offsets[-1] / max(1, len(offsets) - 1)),
        cold=float(fresh[used].mean()) if used.size else 0.0,
        cut_off=int(rows.cut_off[part].sum()),
        failed=int(rows.failed[part].sum()),
        cpu_s=float(rows.cpu[part].sum()),
        body=tuple(zip(*(part.tolist() for part in _totals(body, np.ones_like(body))), strict=True)),
        tail=tuple(items[-TAIL_BATCHES:].tolist()),
        hosts=tuple((hosts[i], int(count)) for i, count in enumerate(counts) if count),
    )
    return summary, np.minimum(busy, max(1, most))


def _totals(sizes: NDArray[np.int64], weights: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct sizes in order, and the sum of the weights of each, which are all positive."""
    if sizes.max(initial=0) < _SMALL:
        sums = np.bincount(sizes, weights=weights).astype(np.int64)
        found = np.flatnonzero(sums)
        return found, sums[found]
    found, place = np.unique(sizes, return_inverse=True)
    return found, np.bincount(place, weights=weights).astype(np.int64)


def _serial(
    claimed: Array, spent: Array, worker: NDArray[np.int64], idle: Array
) -> tuple[Array, Array, NDArray[np.int64]]:
    """When each batch started, the gap before it on its worker (NaN when unknown), and which are the workers' first.

    Batches are in the order of their claims. A worker executes one batch at a time, so a batch that it claimed ahead
    starts when the one before has ended: the running maximum of ``claimed + later work`` along each worker.
    """
    if worker.max(initial=-1) < 0:
        gaps = np.where(np.isfinite(idle) & (idle >= 0), np.minimum(idle, LONGEST_GAP_S), np.nan)
        return claimed, gaps, np.empty(0, dtype=np.int64)
    small = worker.max() < _SMALL - 1
    order = np.argsort((worker + 1).astype(np.uint16) if small else worker, kind="stable")
    begins = np.r_[True, np.diff(worker[order]) != 0]
    group = np.cumsum(begins) - 1
    done = np.cumsum(spent[order])
    before = done - spent[order]
    apart = 2.0 * (claimed.max() + done[-1]) + 1.0  # keeps the running maximum of a worker from reaching the next one
    start = np.maximum.accumulate(claimed[order] - before + group * apart) - group * apart + before
    gap = np.r_[np.nan, start[1:] - (start[:-1] + spent[order][:-1])]
    gap[begins] = np.nan
    real_start, gaps = np.empty_like(start), np.empty_like(gap)
    real_start[order] = start
    # The server's clock at two claims against the worker's own stopwatch: exact to well under a millisecond.
    gaps[order] = np.clip(gap, 0.0, LONGEST_GAP_S)
    return real_start, gaps, order[begins]


def _concurrency(start: Array, end: Array) -> tuple[Array, int, float]:
    """Mean number of busy workers during each batch, the most at any moment, and seconds of pause."""
    by_start, by_end = np.argsort(start, kind="stable"), np.argsort(end)
    starts, ends = start[by_start], end[by_end]
    start_sum, end_sum = np.r_[0.0, np.cumsum(starts)], np.r_[0.0, np.cumsum(ends)]

    def integral(at: Array, order: NDArray[np.int64]) -> Array:
        """Worker seconds until moments that are in order, as the moments were before."""
        begun, over = np.searchsorted(starts, at), np.searchsorted(ends, at)
        out = np.empty_like(at)
        out[order] = (at * begun - start_sum[begun]) - (at * over - end_sum[over])
        return out

    length = end - start
    with np.errstate(divide="ignore", invalid="ignore"):
        busy = np.where(length > 0, (integral(ends, by_end) - integral(starts, by_start)) / length, 1.0)
    # At each start: how many had started, itself included, minus how many had ended (an end at the same moment counts).
    level = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
    # Nobody at work from the last end until the next start; what dispatching explains is no pause.
    reached = np.maximum.accumulate(end[by_start])
    holes = np.maximum(0.0, starts[1:] - reached[:-1])
    pauses_s = float(holes[holes > max(1.0, 5 * float(np.median(length)))].sum())
    return np.maximum(busy, 1.0), int(level.max(initial=1)), pauses_s


def _cells(rows: _Rows, position: NDArray[np.int64], busy: Array, cold: NDArray[np.bool_]) -> Cells:
    keep = np.flatnonzero(~rows.cut_off)
    items, spent = rows.items[keep], np.maximum(rows.spent[keep], 1e-9)
    first, cold_kept = rows.first[keep], cold[keep]
    whole = items.astype(np.int64)
    sizes, _ = _totals(whole, np.ones_like(whole))
    exact = len(sizes) <= _EXACT_SIZES
    size = np.searchsorted(sizes, whole) if exact else np.floor(np.log(items) / 0.05).astype(np.int64)
    quarters = np.round(busy[keep] * 4).astype(np.int64)
    key = np.zeros(len(items), dtype=np.int64)
    for codes in (position[keep], size, quarters, rows.host[keep], first.astype(np.int64), cold_kept.astype(np.int64)):
        key = key * (int(codes.max(initial=0)) + 1) + codes
    _, index, inverse = np.unique(key, return_index=True, return_inverse=True)
    n = np.bincount(inverse, minlength=len(index)).astype(np.float64)

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(inverse, weights=values, minlength=len(index)) / n)

    mean_s = mean(spent)
    spread = mean((spent - mean_s[inverse]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(n > 1, spread * n / (n - 1) / mean_s**2, np.nan)
    return Cells(
        run=position[keep][index],
        items=mean(items),
        busy=mean(busy[keep]),
        first=first[index].astype(np.float64),
        cold=cold_kept[index].astype(np.float64),
        host=rows.host[keep][index],
        n=n,
        mean_s=mean_s,
        variance=variance,
    )


def _memory(rows: _Rows) -> tuple[tuple[float, float], ...]:
    """Peak resident set against the largest batch that the process had executed by then.

    The peak of a process never falls, so a small batch after a large one says nothing about small batches.
    """
    known = (rows.rss > 0) & (rows.worker >= 0)
    if not known.any():
        return ()
    order = np.flatnonzero(known)
    order = order[np.lexsort((rows.claimed[order], rows.worker[order]))]
    items, worker, rss = rows.items[order], rows.worker[order], rows.rss[order]
    apart = items.max() + 1
    group = np.cumsum(np.r_[True, np.diff(worker) != 0]) - 1
    largest = np.maximum.accumulate(items + group * apart) - group * apart
    # Rows of a later run may tell of less, where a worker's name was used again.
    top = rss.max() + 1.0
    rss = np.maximum.accumulate(rss + group * top) - group * top
    # The last batch of a process at this largest size: there the peak is highest.
    last = np.r_[(np.diff(largest) != 0) | (np.diff(group) != 0), True]
    pairs = sorted(zip(largest[last].tolist(), rss[last].tolist(), strict=True))
    step = -(-len(pairs) // _MEMORY_POINTS)
    return tuple(max(pairs[i : i + step], key=lambda point: point[1]) for i in range(0, len(pairs), step))

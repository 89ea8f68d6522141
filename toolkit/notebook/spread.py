"""Display objects of what varies: service times from batch to batch, and errors of predictions from run to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from matplotlib.ticker import FuncFormatter

from toolkit.notebook import escape, theme
from toolkit.notebook import format as fmt
from toolkit.notebook.measured import groups_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from toolkit.tuning import Recommender

_LEAST: Final = 1e-9  # keeps a ratio finite
# Denser towards the ends, where a curve of quantiles says most.
_SHARES: Final = np.unique(np.concatenate([np.linspace(0, 1, 101), [0.001, 0.005, 0.995, 0.999]]))


@dataclass(eq=False, repr=False)
class ServiceTimes(theme.Display):
    """Distribution of service times: the share of batches that took at most so long, one curve a group.

    Attributes
    ----------
    of : str
        ``batch``: seconds a batch; ``item``: its seconds divided by its items.
    by : str
        What the groups are, in words; empty for one group.
    labels : tuple of str
        The groups.
    counts : ndarray of int of shape (n_groups,)
        Batches in each.
    shares : ndarray of shape (n_shares,)
        Shares from 0 to 1.
    seconds : ndarray of shape (n_groups, n_shares)
        The quantile of each group at each share.
    overall : ndarray of shape (n_shares,)
        The quantiles of all batches together, also of groups that are not drawn.
    n_batches : int
        All batches.
    """

    of: str
    by: str
    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]
    seconds: NDArray[np.float64]
    overall: NDArray[np.float64]
    n_batches: int

    @classmethod
    def from_metrics(cls, frame: pd.DataFrame, *, of: str = "batch", by: str = "batch_size") -> ServiceTimes:
        """Take the batches of a metrics frame; those cut off by a death or a limit are left out.

        Parameters
        ----------
        frame : DataFrame
            Metric rows.
        of : str
            ``batch`` or ``item``.
        by : str
            Column that makes the groups, or empty for none. Of more than six groups the largest are drawn.

        Raises
        ------
        ValueError
            `of` is neither.
        """
        if of not in ("batch", "item"):
            raise ValueError(f"of={of!r}: expected batch or item")
        part = frame[~frame["cut_off"].astype(bool) & (frame["items"] > 0) & frame["service_s"].notna()]
        value = part["service_s"].to_numpy(dtype=float).clip(min=0.0)
        if of == "item":
            value = value / part["items"].to_numpy(dtype=float)
        codes, labels = groups_of(part, by)
        sizes = np.bincount(codes, minlength=len(labels))
        drawn = np.sort(np.argsort(-sizes, kind="stable")[: len(theme.SERIES)])
        rows = [np.quantile(value[codes == code], _SHARES) for code in drawn]
        return cls(
            of=of,
            by=by.replace("_", " "),
            labels=tuple(labels[code] for code in drawn),
            counts=sizes[drawn].astype(np.int64),
            shares=_SHARES,
            seconds=np.array(rows) if rows else np.zeros((0, len(_SHARES))),
            overall=np.quantile(value, _SHARES) if value.size else np.zeros(0),
            n_batches=int(value.size),
        )

    def _at(self, share: float) -> float:
        return float(np.interp(share, self.shares, self.overall))

    def finding(self) -> str:
        """Return the median and the slowest hundredth; of several groups the least and the greatest median."""
        if not self.n_batches:
            return "No service time to show"
        if len(self.labels) > 1:
            return self._of_groups()
        middle, slow = self._at(0.5), self._at(0.99)
        times = f", {fmt.number(slow / middle, 2)} times as long" if middle > 0 else ""
        what = "batches take" if self.of == "batch" else "batches take, per item,"
        return f"Half of the {what} up to {fmt.duration(middle)}; 1 in 100 takes over {fmt.duration(slow)}{times}"

    def _of_groups(self) -> str:
        middle, slow = (np.array([np.interp(share, self.shares, row) for row in self.seconds]) for share in (0.5, 0.99))
        first, last = int(np.argmin(middle)), int(np.argmax(middle))
        tail = float(np.max(slow / np.maximum(middle, _LEAST)))
        low, high = (escape.plain(self.labels[i] or "unnamed", 40) for i in (first, last))
        per = "" if self.of == "batch" else " per item"
        longer = f"; 1 in 100 up to {fmt.number(tail, 2)} times as long" if tail > 1.05 else ", with little variation"
        return (
            f"Half of the batches take up to {fmt.duration(float(middle[first]))}{per} at {self.by} {low} and up to "
            f"{fmt.duration(float(middle[last]))} at {high}{longer}"
        )

    def caption(self) -> str:
        """Return the finding and the median and the slowest hundredth of each group."""
        if not self.n_batches:
            return f"{self.finding()}."
        middle, slow = ([float(np.interp(share, self.shares, row)) for row in self.seconds] for share in (0.5, 0.99))
        each = "; ".join(
            f"{escape.plain(label, 40) or 'all'}: {fmt.duration(m)}, {fmt.duration(s)} of {fmt.count(int(count))}"
            for label, m, s, count in zip(self.labels, middle, slow, self.counts, strict=True)
        )
        rest = self.n_batches - int(self.counts.sum())
        more = f" {fmt.quantity(rest, 'batch', 'batches')} of smaller groups not drawn." if rest else ""
        by = f" by {self.by}" if self.by else ""
        what = f"Median and 99th percentile of service time per {self.of}, of how many batches{by}"
        return f"{self.finding()}. {what}: {each}.{more}"

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(
            axes, self.finding(), f"service time per {self.of} (s, logarithmic)", "share of batches", grid="both"
        )
        if not self.n_batches or not self.seconds.max() > 0:
            theme.empty(axes, "no service time")
            return
        least = float(self.seconds[self.seconds > 0].min())
        for row, label, (paint, dash, _) in zip(self.seconds, self.labels, theme.SERIES, strict=False):
            words = escape.figure(f"{self.by} {label or 'unnamed'}" if self.by else "all batches", 28)
            axes.plot(
                np.maximum(row, least), self.shares, color=paint, linestyle=dash, linewidth=1.9, label=words,
                drawstyle="steps-post",
            )  # fmt: skip
        axes.set_xscale("log")
        theme.log_ticks(axes, least, float(self.seconds.max()))
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        theme.legend(axes, columns=3)


@dataclass(eq=False, repr=False)
class Residuals(theme.Display):
    """How far each run was from what the other runs predicted.

    Attributes
    ----------
    run_ids : tuple of str
        The runs.
    measured_s : ndarray of shape (n_runs,)
        Their makespans.
    error, baseline_error : ndarray of shape (n_runs,)
        Measured over predicted makespan minus 1, of the model and of plain throughput; NaN where nothing was predicted.
    """

    run_ids: tuple[str, ...]
    measured_s: NDArray[np.float64]
    error: NDArray[np.float64]
    baseline_error: NDArray[np.float64]
    height: ClassVar[float] = 3.5

    @classmethod
    def from_model(cls, model: Recommender, task: str | None = None) -> Residuals:
        """Take the left-out runs of a fitted model.

        Raises
        ------
        TuningError
            The model knows several tasks and none was named, or not this one.
        """
        return cls.from_frame(model.backtest(task))

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Residuals:
        """Take a frame with the columns of `Recommender.backtest`; runs without a prediction are left out."""
        names = ["measured_s", "error", "baseline_error"]
        values = frame.reindex(columns=names).astype(float).to_numpy()
        known = np.isfinite(values[:, :2]).all(axis=1) & (values[:, 0] > 0)
        # Not as a column of text: pandas would refuse half a surrogate pair.
        ids = frame["run_id"].to_numpy(dtype=object)[known] if "run_id" in frame else []
        return cls(tuple(ids), *values[known].T)

    @staticmethod
    def _typical(errors: NDArray[np.float64]) -> float:
        known = errors[np.isfinite(errors)]
        return float(np.median(np.abs(known))) if known.size else float("nan")

    def _lean(self) -> str:
        """Say whether errors lean to one side: seven of eight or more, of at least eight."""
        n, longer = self.error.size, int((self.error > 0).sum())
        if n >= 8 and longer >= 7 * n / 8:
            return ", mostly because runs took longer"
        if n >= 8 and longer <= n / 8:
            return ", mostly because runs were faster"
        return ""

    def finding(self) -> str:
        """Return the typical error beside that of plain throughput."""
        if not self.error.size:
            return "No run could be predicted from the others"
        ours, plain = self._typical(self.error), self._typical(self.baseline_error)
        beside = f" (plain throughput: {fmt.percent(plain)})" if np.isfinite(plain) else ""
        runs = fmt.quantity(self.error.size, "run")
        return f"{runs} predicted from the others: typically {fmt.percent(ours)} off{beside}{self._lean()}"

    def caption(self) -> str:
        """Return the finding, the worst errors, and how to read the figure."""
        if not self.error.size:
            return f"{self.finding()}."
        low, high = float(self.error.min()), float(self.error.max())
        return (
            f"{self.finding()}. Errors from {100 * low:+.1f} % to {100 * high:+.1f} % of the prediction; above the "
            f"line a run took longer than predicted. The band holds half of the errors."
        )

    def draw(self, axes: Axes) -> None:
        """Draw on `axes`."""
        theme.dress(axes, self.finding(), "measured makespan (s, logarithmic)", "longer than predicted by", grid="both")
        if not self.error.size:
            theme.empty(axes, "three runs or more are needed")
            return
        axes.axhline(0, color=theme.INK, linewidth=1)
        half = self._typical(self.error)
        axes.axhspan(-half, half, color=theme.SKY, alpha=0.3, linewidth=0, label="half of the errors")
        axes.scatter(
            self.measured_s, self.baseline_error, s=30, marker="D", color=theme.PAPER, edgecolor=theme.INK,
            linewidth=0.9, label="plain throughput",
        )  # fmt: skip
        axes.scatter(
            self.measured_s, self.error, s=44, marker="o", color=theme.BLUE, edgecolor=theme.PAPER, linewidth=0.6,
            zorder=3, label="model",
        )  # fmt: skip
        low, high = float(self.measured_s.min()), float(self.measured_s.max())
        axes.set_xscale("log")
        axes.set_xlim(low / 1.1, high * 1.1)
        theme.log_ticks(axes, low / 1.1, high * 1.1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f} %" if value else "0"))
        theme.legend(axes)

"""How long a run takes: list scheduling of batches over workers that slow each other down.

Whoever is free takes the next batch, which is list scheduling (Graham, SIAM J. Appl. Math. 17, 1969); while `k`
workers are busy, each works at ``1 / C(k)`` of its speed, so that at the end of a run, when some are done, the others
get faster. `analytic_s` is a closed form for screening, `simulate` a vectorised Monte Carlo for what is left. It
follows the last batches of a run one by one; the many before only fill the workers evenly, up to a random phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array

STEPS = 256  # last batches of a run that are simulated one by one
_BLOCK = 2_000_000  # numbers in the largest array of a step
_SORTED = 12  # workers up to which keeping them in order costs less than looking for the first


@dataclass(frozen=True, slots=True)
class Plans:
    """Settings whose makespan is asked for, as arrays; one row per plan.

    Attributes
    ----------
    workers : ndarray of int64, shape (n_plans,)
        Workers, at most as many as batches.
    body_items, body_count : ndarray of shape (n_plans, n_sizes)
        Sizes of the earlier batches and how many of each; count 0 pads.
    tail : ndarray of shape (n_plans, n_steps)
        Sizes of the last batches in the order of their claims; 0 pads at the end.
    """

    workers: NDArray[np.int64]
    body_items: Array
    body_count: Array
    tail: Array

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def steps(self) -> NDArray[np.int64]:
        """Batches of each tail."""
        return np.asarray((self.tail > 0).sum(axis=1), dtype=np.int64)

    @classmethod
    def equal(cls, n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64]) -> Plans:
        """Plans of equal batches, the last one smaller."""
        count = -(-n_items // batch_size)
        last = n_items - (count - 1) * batch_size
        workers = np.minimum(workers, count)
        steps = np.minimum(count, STEPS)
        column = np.arange(int(steps.max(initial=1)))[None, :]
        tail = np.where(column < steps[:, None], batch_size[:, None], 0).astype(np.float64)
        tail[np.arange(len(tail)), steps - 1] = last
        return cls(
            workers=workers,
            body_items=batch_size[:, None].astype(np.float64),
            body_count=(count - steps)[:, None].astype(np.float64),
            tail=tail,
        )

    @classmethod
    def recorded(
        cls, bodies: list[tuple[tuple[int, int], ...]], tails: list[tuple[int, ...]], workers: list[int]
    ) -> Plans:
        """Plans that repeat the batches of recorded runs."""
        n_sizes = max(1, max((len(body) for body in bodies), default=1))
        n_steps = max(1, max((len(tail) for tail in tails), default=1))
        body_items, body_count = np.ones((len(tails), n_sizes)), np.zeros((len(tails), n_sizes))
        tail = np.zeros((len(tails), n_steps))
        for i, (body, sizes) in enumerate(zip(bodies, tails, strict=True)):
            for j, (size, count) in enumerate(body):
                body_items[i, j], body_count[i, j] = size, count
            tail[i, : len(sizes)] = sizes
        most = np.maximum(1, (tail > 0).sum(axis=1) + body_count.sum(axis=1)).astype(np.int64)
        counts = np.minimum(np.array(workers, dtype=np.int64), most)
        return cls(counts, body_items, body_count, tail)

    def take(self, index: NDArray[np.int64]) -> Plans:
        """Plans at `index`, without padding that they do not need."""
        steps = int(self.steps[index].max(initial=1))
        return Plans(
            self.workers[index],
            self.body_items[index],
            self.body_count[index],
            self.tail[index, :steps],
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Mean work of the batches of `Plans`, in seconds of a worker that is alone, and how much it varies.

    Attributes
    ----------
    body_s, tail_s : ndarray, shapes of ``body_items`` and ``tail``
        Work of a batch, dispatch gap included; 0 where padded.
    tail_var : ndarray, shape of ``tail``
        Relative variances.
    contention : ndarray of shape (n_plans, most workers + 1)
        ``C(k)`` for each number of busy workers from 0.
    stagger_s : ndarray of shape (n_plans,)
        Delay from one worker's first claim to the next one's.
    start_s : ndarray of shape (n_plans,)
        Warm-up work of each worker.
    slow : ndarray of shape (n_plans, most workers)
        How much longer each worker takes for the same work, 1 for the usual.
    """

    body_s: Array
    tail_s: Array
    tail_var: Array
    contention: Array
    stagger_s: Array
    start_s: Array
    slow: Array

    def take(self, index: NDArray[np.int64], steps: int) -> Timing:
        """Timing of the plans at `index`, cut to `steps` batches."""
        return Timing(
            self.body_s[index],
            self.tail_s[index, :steps],
            self.tail_var[index, :steps],
            self.contention[index],
            self.stagger_s[index],
            self.start_s[index],
            self.slow[index],
        )


@dataclass(frozen=True, slots=True)
class EqualTiming:
    """Mean seconds of the batches of equal plans, each of shape (..., n_plans).

    Attributes
    ----------
    batch_s, final_s, last_s : ndarray
        A full batch with all workers busy, a full batch in the last round, and the last, smaller batch.
    variance : ndarray
        Relative variance of a full batch.
    begin_s : ndarray
        When the average worker begins its first batch, warm-up included.
    """

    batch_s: Array
    final_s: Array
    last_s: Array
    variance: Array
    begin_s: Array


def simulate(plans: Plans, timing: Timing, replicates: int, seed: int) -> Array:
    """Makespans by Monte Carlo, with the same random numbers for every plan.

    Common random numbers make the difference of two plans far less noisy than either (Law, *Simulation Modeling and
    Analysis*, ch. 11), and the result of a plan does not depend on which others are asked for.

    How batches vary decides how evenly a run ends, so that is simulated, at an unchanged sum. Whether the sum varies
    from run to run cannot be seen within a run (the same items take the same time again, in whichever batch they are),
    so it is left to whoever compares runs.

    Parameters
    ----------
    plans : Plans
        What is run.
    timing : Timing
        What its batches take: lognormal around these means.
    replicates : int
        Simulated runs of each plan.
    seed : int
        Of the random numbers.

    Returns
    -------
    ndarray of shape (n_plans, replicates)
        Seconds.
    """
    out = np.zeros((len(plans), replicates))
    if not len(plans):
        return out
    most = int(plans.workers.max())
    normal = np.random.default_rng(seed).standard_normal((STEPS, replicates)).T
    phase = np.random.default_rng(seed + 1).random((most, replicates)).T
    # Plans of like length and width together, so that little is padded.
    label = np.ceil(np.log2(plans.steps)).astype(np.int64) * 64 + np.ceil(np.log2(plans.workers)).astype(np.int64)
    for group in np.unique(label):
        members = np.flatnonzero(label == group)
        block = max(1, _BLOCK // (replicates * max(int(plans.steps[members].max()), int(plans.workers[members].max()))))
        for at in range(0, len(members), block):
            index = members[at : at + block]
            part = plans.take(index)
            out[index] = _schedule(part, timing.take(index, part.tail.shape[1]), normal, phase)
    return out


def _schedule(plans: Plans, timing: Timing, normal: Array, phase: Array) -> Array:
    """Follow the tails of plans of like shape.

    While batches are left, all workers are busy, and time runs as slowly for each of them: when they end is a matter of
    work alone. Only from the first who finds nothing left on do the others get faster.
    """
    cells, steps = plans.tail.shape
    replicates, width = len(phase), int(plans.workers.max())
    now, left = _begin(plans, timing, phase[:, :width])
    # By step, plan and replicate. Padding takes no time: who is free first stays it.
    mean_s = timing.tail_s.T[:, :, None]
    work = np.sqrt(np.log1p(timing.tail_var)).T[:, :, None] * normal.T[:steps, None, :]
    np.exp(work, out=work)
    work *= mean_s
    work *= mean_s.sum(axis=0) / work.sum(axis=0)
    work = work.reshape(steps, cells * replicates)
    slow = timing.slow[:, :width]
    if width <= _SORTED and (slow == 1.0).all():
        ends = _in_order(left.T, work)
    else:
        ends = _by_worker(left, work, np.repeat(slow, replicates, axis=0))
    busy = np.repeat(plans.workers, replicates)
    slowdown, rows = np.repeat(timing.contention, replicates, axis=0), np.arange(cells * replicates)
    before = np.zeros_like(now)
    for gone in range(width):
        here = gone < busy
        end = np.where(here, ends[gone], before)
        now += (end - before) * slowdown[rows, np.where(here, busy - gone, 0)]
        before = end
    return now.reshape(cells, replicates)


def _in_order(left: Array, work: Array) -> list[Array]:
    """When workers that are alike find nothing left, the first first; they are kept in the order in which they end."""
    free = list(np.sort(left, axis=0))
    for taken in work:
        end = free[0] + taken
        for place in range(1, len(free)):
            later = free[place]
            free[place - 1] = np.minimum(end, later)
            end = np.maximum(end, later)
        free[-1] = end
    return free


def _by_worker(left: Array, work: Array, slow: Array) -> list[Array]:
    """The same of workers who differ, or who are many."""
    width = left.shape[1]
    ends, slow = left.ravel(), np.ascontiguousarray(slow).ravel()
    first = np.arange(0, len(ends), width)
    for taken in work:
        who = first + ends.reshape(-1, width).argmin(axis=1)
        ends[who] += taken * slow[who]
    return list(np.sort(ends.reshape(-1, width), axis=1).T)


def _begin(plans: Plans, timing: Timing, phase: Array) -> tuple[Array, Array]:
    """When the tails begin, and the work that each worker has left then; infinite for workers that a plan has not."""
    cells, (replicates, width) = len(plans), phase.shape
    slot = np.arange(width)
    full = timing.contention[np.arange(cells), plans.workers]
    slow = timing.slow[:, :width]
    hands = np.where(slot < plans.workers[:, None], 1.0 / slow, 0.0).sum(axis=1)
    body = (timing.body_s * plans.body_count).sum(axis=1) * full / hands
    # Where the body leaves off, workers are somewhere within a batch: uniform, so half a batch of each is still to do.
    span = np.where(plans.body_count.sum(axis=1) > 0, timing.tail_s[:, 0], 0.0)
    now = np.repeat(np.maximum(body - 0.5 * span * full, 0.0), replicates)
    wait = timing.start_s[:, None] + timing.stagger_s[:, None] * slot / full[:, None]
    left = slow[:, None, :] * (wait[:, None, :] + phase[None] * span[:, None, None])
    left = np.where(slot < plans.workers[:, None, None], left, np.inf)
    return now, np.ascontiguousarray(left).reshape(cells * replicates, width)


def analytic_s(
    n_items: NDArray[np.int64], batch_size: NDArray[np.int64], workers: NDArray[np.int64], timing: EqualTiming
) -> Array:
    """Expected makespans of equal batches in closed form, for screening many plans or many sets of coefficients.

    Equal batches with little noise end in rounds; with noise the workers lose step, and the end is the mean load plus
    what the last batch sticks out, about ``sigma sqrt(2 ln w)`` batches (Kruskal and Weiss, IEEE Trans. Software
    Engineering 11, 1985). The two are blended by how far out of step the workers are after all rounds.

    Parameters
    ----------
    n_items, batch_size, workers : ndarray of shape (n_plans,)
        Settings.
    timing : EqualTiming
        What the batches take, of shape (..., n_plans).

    Returns
    -------
    ndarray of shape (..., n_plans)
        Seconds.
    """
    count = -(-n_items // batch_size)
    used = np.minimum(workers, count)
    rounds = (count - 1) // used
    alone = (count - 1) % used == 0
    last_round = np.where(alone, timing.last_s, timing.final_s)
    in_step = rounds * timing.batch_s + last_round
    extreme = np.array([NormalDist().inv_cdf((w - 0.375) / (w + 0.25)) if w > 1 else 0.0 for w in used.tolist()])
    spread = np.sqrt(timing.variance) * timing.batch_s
    in_step = in_step + spread * extreme * np.sqrt(np.minimum(rounds + 1.0, 4.0))
    load = ((count - 1) * timing.batch_s + timing.last_s) / used
    out_of_step = load + timing.batch_s * (used - 1) / (2.0 * used) + spread * np.sqrt(2.0 * np.log(used))
    mixed = 1.0 - np.exp(-4.0 * timing.variance * (rounds + 1.0))
    return np.asarray(timing.begin_s + (1.0 - mixed) * in_step + mixed * out_of_step)


def equal_splits(n_items: int, workers: int, shares: int = 8) -> list[int]:
    """Batch sizes ``ceil(N / (w m))`` that give every worker the same number of batches, for m up to `shares`."""
    return sorted({max(1, math.ceil(n_items / (workers * m))) for m in range(1, shares + 1)})

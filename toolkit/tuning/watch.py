"""What changes inside a run: items that take longer and longer, and a host that is slower than the others.

Pure: batches in, sentences out. Medians of logarithms are compared, so that a few stuck batches or long items say
nothing, and differences count only where they are far beyond what the batches' own variation explains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.tuning.history import Array
from toolkit.tuning.nonneg import weighted_nonneg

NOTABLE = 1.25
"""Times the usual seconds from which a difference is told."""
_FEWEST = 8  # batches on either side of a comparison
_SURE = 5.0  # standard errors that a difference must exceed
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch that ended.

    Attributes
    ----------
    items : int
        Items executed.
    service_s : float
        Seconds of it.
    claimed_at : float
        When it began, in seconds of any clock that all batches share.
    active : int
        Batches of the run under way when it began, itself included.
    host : str
        Where.
    first : bool
        First batch of its process, which may carry imports.
    """

    items: int
    service_s: float
    claimed_at: float
    active: int
    host: str
    first: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell about a run.

    Attributes
    ----------
    kind : str
        ``drift`` or ``slow_host``.
    about : str
        The host; empty for drift.
    factor : float
        How much longer a batch takes than at the start of the run, or than on the other hosts.
    text : str
        The same, as a sentence.
    """

    kind: str
    about: str
    factor: float
    text: str


def notices(seen: Sequence[Seen]) -> list[Notice]:
    """Return what is to be told of a run whose batches are `seen`, in any order; empty where nothing stands out."""
    usual = [one for one in seen if not one.first and one.items > 0 and 0 < one.service_s < math.inf]
    if len(usual) < 2 * _FEWEST:
        return []
    # Batches that ran nearly alone, at the start and at the end of a run, are faster for that.
    most = max(one.active for one in usual)
    usual = sorted((one for one in usual if one.active >= 0.5 * most), key=lambda one: one.claimed_at)
    if len(usual) < 2 * _FEWEST:
        return []
    off = _off(np.array([one.items for one in usual]), np.array([one.service_s for one in usual]))
    names, host = np.unique([one.host for one in usual], return_inverse=True)
    found, shift = _slow_hosts(names.tolist(), host, off)
    return [*found, *_drift(off - shift[host])]


def _off(items: Array, service_s: Array) -> Array:
    """Logarithm of what each batch took over what a fixed cost and equal items explain, by relative errors."""
    design = np.stack([np.ones(len(items)), items], axis=1).astype(np.float64)
    predicted = service_s
    ridge = np.array([[1e-6 / float(np.median(service_s)) ** 2, 1e-12]])
    trust = np.ones((1, len(items)))
    for _ in range(_ROUNDS):
        relative = design / service_s[:, None]
        found = weighted_nonneg(relative[None], np.ones((1, len(items))), trust, ridge)[0]
        predicted = np.maximum(design @ found, 1e-12)
        error = np.abs(service_s / predicted - 1.0)
        trust = np.minimum(1.0, max(0.05, float(np.median(error))) / np.maximum(error, 1e-12))[None]
    return np.log(service_s / predicted)


def _slow_hosts(names: list[str], host: NDArray[np.int64], off: Array) -> tuple[list[Notice], Array]:
    """Hosts on which batches take longer than on all others together, and what each host is off by."""
    shift = np.array([float(np.median(off[host == i])) for i in range(len(names))])
    found = []
    for i, name in enumerate(names):
        here, others = off[host == i], off[host != i]
        factor = _times(others, here)
        if factor >= NOTABLE:
            text = f"a batch takes {factor:.2g} times as long on host {name} as on the others"
            found.append(Notice("slow_host", name, factor, text))
    return found, shift


def _drift(off: Array) -> list[Notice]:
    """Whether the last third of the batches so far took longer, or less, than the first."""
    third = len(off) // 3
    factor = _times(off[:third], off[-third:])
    if 1.0 / NOTABLE < factor < NOTABLE:
        return []
    than = "the first ones of this run"
    text = f"the latest batches take {factor:.2g} times as long as {than}, item for item"
    return [Notice("drift", "", factor, text)]


def _times(before: Array, after: Array) -> float:
    """How much longer `after` is than `before`, 1 where that is not sure."""
    if min(len(before), len(after)) < _FEWEST:
        return 1.0
    apart = float(np.median(after) - np.median(before))
    spread = [1.4826 * float(np.median(np.abs(part - np.median(part)))) for part in (before, after)]
    # The standard error of a median is 1.25 times that of a mean.
    error = 1.25 * math.hypot(spread[0] / math.sqrt(len(before)), spread[1] / math.sqrt(len(after)))
    return math.exp(apart) if abs(apart) > _SURE * max(error, 0.005) else 1.0

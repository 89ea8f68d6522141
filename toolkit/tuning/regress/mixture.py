"""Structures and processes together: one prediction in logarithms, its spread, and how what was left out fared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from toolkit.tuning.regress.powers import STEP_SD, Pair, Powers, pair, powers
from toolkit.tuning.regress.process import FIRST, ROUNDS, Hyper, Members, Space, distances, fit_members, sample
from toolkit.tuning.regress.rows import Array, Cells, Index
from toolkit.tuning.regress.structure import ONE, Roles, Sum, sums

_SEARCHED = 100  # cells on which members are weighted; with more cells, the best of them are fitted again to all
_REFITTED = 2  # members that are then fitted again
_COST = 1.0  # of a coefficient without prior, in logarithms of a weight, as Akaike's: it was fitted to what is weighed
_HOPELESS = 0.03  # structures that weigh less after the first sample get no more
_MOST_MEMBERS = 32  # the heaviest: each prediction asks all of them
_BEYOND_SD = 0.4  # exponent by which a feature of unknown meaning may go on beyond what was measured
_LARGEST_DOUBT = 1.0  # spread beyond which predictions are lowered no further
_CHUNK = 512
_MANY = 40  # repeats that show the distribution of deviations


_Drawn = tuple[Powers | Pair | Sum, Members, Array]


@dataclass(frozen=True, slots=True)
class Part:
    """One structure, and the members on it with their weights in the mixture.

    `basis` is that of the cells, kept because each prediction needs it.
    """

    structure: Powers | Pair | Sum
    members: Members
    weights: Array
    basis: Array


@dataclass(frozen=True)
class Mixture:
    """What was learnt.

    Attributes
    ----------
    parts : tuple of Part
        Structures with what corrects them.
    space : Space
        Of the hyper-parameters.
    cells : Cells
        What was learnt from.
    left_out : ndarray of shape (n_cells,)
        Measured minus predicted logarithm, of each cell from the other groups.
    left_out_sd : ndarray of shape (n_cells,)
        What the model expected of these.
    """

    parts: tuple[Part, ...]
    space: Space
    cells: Cells
    left_out: Array
    left_out_sd: Array

    @cached_property
    def hyper(self) -> Hyper:
        """Hyper-parameters of all members, part after part."""
        return Hyper.of(np.concatenate([part.members.z for part in self.parts]), self.space)

    @cached_property
    def weights(self) -> Array:
        """Weights of all members, part after part."""
        return np.concatenate([part.weights for part in self.parts])

    @cached_property
    def features(self) -> Array:
        """Coordinates of the cells."""
        return self.space.features(self.cells.x)

    def held(self, x: Array) -> Array:
        """Features as structures see them: those of unknown meaning stay at the ends of what was measured.

        No structure is known along these, so that a trend between the ends is no reason for one beyond.
        """
        others = list(self.space.roles.others)
        if not others:
            return x
        out = x.copy()
        out[:, others] = np.clip(x[:, others], self.cells.x[:, others].min(axis=0), self.cells.x[:, others].max(axis=0))
        return out

    def log_mean(self, x: Array) -> Array:
        """Expected logarithm for logarithms of features, shape (n_rows,)."""
        out, held = np.zeros(len(x)), self.held(x)
        for part in self.parts:
            out += part.weights.sum() * part.structure.log_mean(held)
        for rows, part, _, cross, _ in self._covariances(x, held):
            out[rows] += part.weights @ (cross @ part.members.alpha[:, :, None])[:, :, 0]
        return out

    def structure_mean(self, x: Array) -> Array:
        """The same by structure alone, its coefficients as they were learnt together with the rest."""
        out, x = np.zeros(len(x)), self.held(x)
        for part in self.parts:
            out += part.weights.sum() * part.structure.log_mean(x)
            out += part.structure.basis(x) @ self.learnt(part)
        return out

    def learnt(self, part: Part) -> Array:
        """Coefficients of a structure's basis, averaged over the members and times the part's weight."""
        return np.asarray(part.basis.T @ (part.weights @ part.members.alpha))

    def least_error(self, x: Array) -> Array:
        """Logarithm of the prediction whose relative error is expected to be least, shape (n_rows,).

        For a normal logarithm with standard deviation s, E|f/y - 1| is least at its median times exp(-s^2): the median
        of a density that is proportional to p(y)/y (Gneiting, *Making and Evaluating Point Forecasts*, J. Am. Stat.
        Assoc. 106, 2011). Where the model is sure this is the median; with many cells it is taken to be sure.
        """
        if len(self.cells.t) > _SEARCHED:
            return self.log_mean(x)
        mean, sd = self.moments(x)
        return np.asarray(mean - np.minimum(sd, _LARGEST_DOUBT) ** 2)

    def spread(self, x: Array) -> Array:
        """Standard deviation of the expected logarithm, shape (n_rows,), without that of a single measurement."""
        return self.moments(x)[1]

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Expected logarithm and its standard deviation, each of shape (n_rows,)."""
        held, count = self.held(x), len(self.weights)
        mean, variance = np.empty((count, len(x))), np.empty((count, len(x)))
        for rows, part, members, cross, before in self._covariances(x, held):
            level = part.structure.log_mean(held[rows])
            mean[members, rows] = level + (cross @ part.members.alpha[:, :, None])[:, :, 0]
            explained = ((cross @ part.members.inverse) * cross).sum(axis=2)
            variance[members, rows] = np.maximum(before - explained, 0.0)
        expected = self.weights @ mean
        return expected, np.asarray(np.sqrt(self.weights @ (variance + (mean - expected) ** 2)))

    def noise(self, x: Array) -> Array:
        """Standard deviation of a single measurement around its expectation, shape (n_rows,).

        Repeats near a setting count most.
        """
        typical = float(self.weights @ self.hyper.noise**2)
        free = self.cells.n - 1
        if free.sum() < 2:
            return np.full(len(x), np.sqrt(typical))
        ours, theirs = self.space.features(self.cells.x[free > 0]), self.space.features(x)
        reach = ours.std(axis=0) + 1e-9
        out = np.empty(len(x))
        for start in range(0, len(x), _CHUNK):
            apart = distances(theirs[start : start + _CHUNK] / reach, ours / reach)
            near = np.exp(-4 * (apart**2).sum(axis=0))
            squares, count = near @ self.cells.squares[free > 0], near @ free[free > 0]
            out[start : start + _CHUNK] = np.sqrt((4 * typical + squares) / (4 + count))
        return out

    def half_width(self, x: Array, coverage: float) -> Array:
        """Half of the interval that holds a new measurement's logarithm, shape (n_rows,).

        The model's part is its spread times the quantile of the left-out errors in that unit (jackknife+ of Barber et
        al., Ann. Statist. 49, 2021, with the normalised score of Lei et al., JASA 113, 2018); the part of a single
        measurement is the quantile of what repeats differ by. With too few for a quantile, a t distribution's stands
        in its place.
        """
        model = self._optimism * _quantile(np.sort(np.abs(self.left_out) / self.left_out_sd), coverage)
        free = float((self.cells.n - 1).sum())
        if len(self.cells.deviations) >= _MANY:
            single = float(np.quantile(self.cells.deviations, coverage))
        elif free >= 2:
            single = float(student.ppf((1 + coverage) / 2, free))
        else:
            single = model
        return np.asarray(np.hypot(model * self.spread(x), single * self.noise(x)))

    @property
    def _optimism(self) -> float:
        """By how much errors of new settings exceed the left-out ones: coefficients were fitted to all settings.

        As the standard deviation of residuals of a regression, with the degrees of freedom that are left.
        """
        groups = len(np.unique(self.cells.group))
        fitted = 1 + sum(float(part.weights.sum()) * part.structure.used for part in self.parts)
        return float(np.sqrt(groups / max(groups - fitted, groups / 2)))

    def _covariances(self, x: Array, held: Array) -> Iterator[tuple[slice, Part, slice, Array, Array]]:
        """For rows at a time and each part: its members, their covariance with the cells, their own before any data."""
        hyper = self.hyper
        amplitude, nugget = hyper.amplitude[:, None, None] ** 2, hyper.nugget**2
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            beyond = _BEYOND_SD**2 * ((x[rows] - held[rows]) ** 2).sum(axis=1)
            beyond += STEP_SD**2 * ((x[rows] <= ONE) & (held[rows] > ONE)).sum(axis=1)
            # The kernel knows no structure: it is asked once for the members of all parts.
            between = hyper.kernel(distances(self.space.features(x[rows]), self.features)) * amplitude
            if self.space.shared:
                pairs = zip(x[rows].T, self.cells.x.T, strict=True)
                same = np.logical_and.reduce([asked[:, None] == known for asked, known in pairs])
                between[:, same] += nugget[:, None]
            before = amplitude[:, :, 0] + nugget[:, None] + beyond
            end = 0
            for part in self.parts:
                members = slice(end, end + len(part.weights))
                own, end = part.structure.basis(held[rows]), members.stop
                yield rows, part, members, between[members] + own @ part.basis.T, before[members] + (own**2).sum(axis=1)


def fit_mixture(cells: Cells, roles: Roles, seed: int, rounds: int = ROUNDS) -> Mixture:
    """Fit structures to cells, and processes to what they leave; weigh all by how they predict.

    Fewer rounds of sampling are enough to see what is off by a large factor.
    """
    space = Space.of(cells, roles)
    some = thin(cells, _SEARCHED, np.random.default_rng(seed))
    searched = cells.taken(some) if len(some) < len(cells.t) else cells
    found: list[Powers | Pair | Sum] = [powers(cells, roles), pair(cells, roles), *sums(cells, roles)]
    z = space.draw(FIRST, seed)
    firsts = [fit_members(z, searched, structure, space) for structure in found]
    heard = np.array([np.logaddexp.reduce(f.score) - _COST * s.used for f, s in zip(firsts, found, strict=True)])
    kept = np.flatnonzero(heard > np.logaddexp.reduce(heard) + np.log(_HOPELESS))
    drawn = []
    for i in kept:
        members, weights = sample(firsts[i], searched, found[i], space, seed, rounds)
        drawn.append((found[i], members, weights - _COST * found[i].used))
    parts = []
    for structure, members, weights in _heaviest(drawn, _MOST_MEMBERS if searched is cells else _REFITTED):
        # The search used some of many cells: what is left of it is fitted again to all of them.
        fitted = members if searched is cells else fit_members(members.z, cells, structure, space)
        parts.append(Part(structure, fitted, weights, structure.basis(cells.x)))
    left_out = sum((p.weights @ p.members.left_out for p in parts), np.zeros(len(cells.t)))
    second = sum(
        (p.weights @ (p.members.variance + (p.members.left_out - left_out) ** 2) for p in parts), np.zeros(len(cells.t))
    )
    return Mixture(tuple(parts), space, cells, left_out, np.sqrt(second))


def _heaviest(drawn: list[_Drawn], most: int) -> list[_Drawn]:
    """At most so many members, of all structures together; logarithms of weights become weights that add up to 1."""
    logs = np.concatenate([weights for _, _, weights in drawn])
    bound = np.sort(logs)[-most:][0]
    total = float(np.exp(logs[logs >= bound] - logs.max()).sum())
    out = []
    for structure, members, weights in drawn:
        kept = weights >= bound
        if kept.any():
            out.append((structure, members.taken(kept), np.exp(weights[kept] - logs.max()) / total))
    return out


def thin(cells: Cells, most: int, rng: np.random.Generator) -> Index:
    """Indices of at most `most` cells, the extremes of each feature among them where they have room."""
    if len(cells.t) <= most:
        return np.arange(len(cells.t))
    ends = np.unique([*cells.x.argmin(axis=0), *cells.x.argmax(axis=0)])[: most // 2]
    rest = np.setdiff1d(np.arange(len(cells.t)), ends)
    return np.sort(np.concatenate([ends, rng.choice(rest, most - len(ends), replace=False)]))


def _quantile(ratios: Array, coverage: float) -> float:
    count = len(ratios)
    rank = int(np.ceil((count + 1) * coverage - 1e-9))
    if rank <= count:
        return float(ratios[rank - 1])
    # The t quantile alone trusts the model's spread; what the few left-out errors say may only widen it.
    size = max(1.0, float(np.sqrt((ratios**2).mean())))
    return float(student.ppf((1 + coverage) / 2, max(count - 1, 1))) * size


def exceeding(mean: Array, sd: Array, bound: Array) -> Array:
    """Expected value of a normal variable that is known to exceed a bound."""
    z = (bound - mean) / sd
    # Beyond 30 the ratio of density and tail is the argument itself.
    ratio = np.where(z > 30, z, np.exp(norm.logpdf(np.minimum(z, 30)) - norm.logsf(np.minimum(z, 30))))
    return np.asarray(mean + sd * ratio)

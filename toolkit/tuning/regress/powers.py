"""Structure of powers: products of them, and two such products of which one is work and the other what sharing costs.

All exponents have priors, so that a handful of cells is enough to start with, and more of them say how far to go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from toolkit.tuning.regress.rows import Array, Cells
from toolkit.tuning.regress.structure import ONE, Roles, repeats, stepped

STEP_SD = 0.6  # of what begins with the second of something: nearly anything up to half of the runtime, or twice it
_EXPONENT_SD = 0.4
_SHARED = -0.5  # exponent of the scale for work that is half shared, and minus that of sizes
_WORK, _REST = 0.8, 0.2  # exponents of sizes, and of one over the scale and of the scale, for the two parts of a pair
_OVERLAP = 2.0  # of the two parts
_NOISE = 0.1  # of a cell around a pair, which is a sketch
_HUBER = 2.0  # of these, from where a cell counts less
_TILTS = (-1.0, 0.0, 1.0)  # logarithms by which one part is larger and the other smaller at the start
_MOST_STEPS = 30


@dataclass(frozen=True, slots=True)
class Powers:
    """``exp(level) * prod_j x_j ** g_j * prod_k exp(h_k [x_k > 1])``: the prior alone, all is learnt as its basis."""

    roles: Roles
    centre: Array
    level: float
    exponents: Array

    def log_mean(self, x: Array) -> Array:
        """Logarithm of the expected target, for logarithms of features."""
        return np.asarray(self.level + (x - self.centre) @ self.exponents)

    def basis(self, x: Array) -> Array:
        """Level, exponents and steps."""
        steps = x[:, stepped(self.roles, ())] > ONE
        return np.column_stack([np.ones(len(x)), _EXPONENT_SD * (x - self.centre), STEP_SD * steps])

    @property
    def used(self) -> int:
        """None: all of it has a prior."""
        return 0

    def slopes(self, x: Array, coefficients: Array) -> Array:  # noqa: ARG002 - as of a pair
        """Exponent of each feature after coefficients of the basis were learnt."""
        return np.asarray(self.exponents + _EXPONENT_SD * coefficients[1 : 1 + len(self.exponents)])


@dataclass(frozen=True, slots=True)
class Pair:
    """``(work ** p + rest ** p) ** (1/p)``, each part a product of powers, steps in the rest alone.

    As the gradients and their synchronisation in *Pollux* (Qiao et al., OSDI 2021), of which some runs at the same
    time. The logarithm is taken as linear in the parameters around the most probable ones, which makes of their prior
    one of functions (MacKay, *A Practical Bayesian Framework for Backpropagation Networks*, Neural Comput. 4, 1992).

    Attributes
    ----------
    roles : Roles
        Meaning of the columns.
    centre : ndarray of shape (n_features,)
        Logarithms of features at which the levels are meant.
    prior, sd : ndarray of shape (n_parameters,)
        Level and exponents of the work, level, exponents and steps of the rest: beliefs.
    found : ndarray of shape (n_parameters,)
        The most probable ones.
    """

    roles: Roles
    centre: Array
    prior: Array
    sd: Array
    found: Array

    def at(self, x: Array) -> tuple[Array, Array]:
        """Logarithm under the parameters found, and how it moves with each of them."""
        left, right = self._sides(x)
        count = left.shape[1]
        work, rest = left @ self.found[:count], right @ self.found[count:]
        log = np.logaddexp(_OVERLAP * work, _OVERLAP * rest) / _OVERLAP
        share = np.exp(_OVERLAP * (work - log))[:, None]
        return log, np.column_stack([share * left, (1.0 - share) * right])

    def _sides(self, x: Array) -> tuple[Array, Array]:
        left = np.column_stack([np.ones(len(x)), x - self.centre])
        return left, np.column_stack([left, x[:, stepped(self.roles, ())] > ONE])

    def log_mean(self, x: Array) -> Array:
        """Logarithm that is expected before any data, on the tangent plane."""
        log, moves = self.at(x)
        return np.asarray(log + moves @ (self.prior - self.found))

    def basis(self, x: Array) -> Array:
        """How the logarithm moves with each parameter, in standard deviations of it."""
        return np.asarray(self.at(x)[1] * self.sd)

    @property
    def used(self) -> int:
        """None: all of it has a prior."""
        return 0

    def slopes(self, x: Array, coefficients: Array) -> Array:
        """Exponent of each feature after coefficients of the basis were learnt, on average over rows."""
        learnt = self.prior + self.sd * coefficients
        size = len(self.centre)
        share = float(self.at(x)[1][:, 0].mean())
        return np.asarray(share * learnt[1 : 1 + size] + (1.0 - share) * learnt[2 + size : 2 + 2 * size])


def powers(cells: Cells, roles: Roles) -> Powers:
    """Powers with the exponents that work which is half shared would have."""
    prior = _exponents(roles, _SHARED, -_SHARED)
    centre = np.average(cells.x, axis=0, weights=cells.n)
    return Powers(roles, centre, float(np.median(cells.t - (cells.x - centre) @ prior)), prior)


def _exponents(roles: Roles, scale: float, sizes: float) -> Array:
    out = np.zeros(len(roles.names))
    out[roles.scale] = scale
    out[list(roles.sizes)] = sizes
    return out


def pair(cells: Cells, roles: Roles) -> Pair:
    """The pair that is most probable after the cells, from several starts."""
    centre = np.average(cells.x, axis=0, weights=cells.n)
    level, steps = [float(np.median(cells.t)) - np.log(2.0)], np.zeros(len(stepped(roles, ())))
    work, rest = _exponents(roles, -_WORK, _WORK), _exponents(roles, _REST, _REST)
    prior = np.concatenate([level, work, level, rest, steps])
    spread = np.full(len(work), _EXPONENT_SD)
    sd = np.concatenate([[1.0], spread, [1.0], spread, np.full(len(steps), STEP_SD)])
    starts = [prior + tilt * _tilted(len(work), len(prior)) for tilt in _TILTS]
    return min((_climbed(Pair(roles, centre, prior, sd, start), cells) for start in starts), key=lambda one: one[1])[0]


def _tilted(features: int, parameters: int) -> Array:
    out = np.zeros(parameters)
    out[0], out[1 + features] = 1.0, -1.0
    return out


def _climbed(one: Pair, cells: Cells) -> tuple[Pair, float]:
    """The nearest most probable parameters, by damped Gauss-Newton steps, and minus twice their log probability."""
    weights = repeats(cells)
    precision = 1.0 / one.sd**2

    def judged(found: Array) -> tuple[float, Array, Array]:
        log, moves = replace(one, found=found).at(cells.x)
        miss = (cells.t - log) / _NOISE
        far = np.abs(miss)
        loss = np.where(far < _HUBER, far**2, _HUBER * (2.0 * far - _HUBER))
        return float(weights @ loss + precision @ (found - one.prior) ** 2), miss, moves / _NOISE

    found, damping = one.found, 1e-2
    value, miss, moves = judged(found)
    for _ in range(_MOST_STEPS):
        trust = weights * np.minimum(1.0, _HUBER / np.maximum(np.abs(miss), _HUBER))
        slope = moves.T @ (trust * miss) - precision * (found - one.prior)
        curve = (moves * trust[:, None]).T @ moves + np.diag(precision)
        ahead = found + np.linalg.solve(curve + damping * np.diag(curve.diagonal()), slope)
        new = judged(ahead)
        if new[0] >= value:
            damping *= 8.0
            continue
        settled = value - new[0] < 1e-4 * (1.0 + value)
        found, (value, miss, moves), damping = ahead, new, damping / 5.0
        if settled:
            break
    return replace(one, found=found), value

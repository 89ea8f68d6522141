"""When a node stands for election as the sweeper: who cannot send tickets leaves that to others, if there are any."""

from __future__ import annotations

import math
from typing import Final

YIELD_S: Final = 4.0
"""So long a node that cannot send keeps back: its lease ends, and others ask once a second."""
TURN_S: Final = 10.0
"""So long it sweeps where nobody took its place: perhaps all are cut off, and most of a sweep needs no broker."""


class Candidacy:
    """Whether one node stands; the election itself knows the ledger only, and not who reaches the broker."""

    def __init__(self) -> None:
        self._back_at = -math.inf
        self._since = math.inf  # when the turn began of a node that cannot send
        self._away = False

    def stands(self, away: bool, now: float) -> bool:
        """Whether to ask for the lease now.

        Parameters
        ----------
        away : bool
            The node cannot send tickets, and others could.
        now : float
            Seconds of the monotonic clock.
        """
        if away and (not self._away or now - self._since >= TURN_S):
            self._keep_back(now)
        self._away = away
        return not away or now >= self._back_at

    def took(self, elected: bool, now: float) -> None:
        """Take note of the answer: where another one sweeps, who cannot send asks seldom, not to be in the way."""
        if elected:
            self._since = min(self._since, now)
        else:
            self._keep_back(now)

    def _keep_back(self, now: float) -> None:
        self._back_at, self._since = now + YIELD_S, math.inf

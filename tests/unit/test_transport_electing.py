"""Who stands for election as the sweeper, while the broker is away from some nodes or from all."""

from __future__ import annotations

from toolkit.transport.electing import TURN_S, YIELD_S, Candidacy

LEASE_S = 2.5


class Election:
    """Nodes that ask once a second, one after the other, for a lease that the ledger grants."""

    def __init__(self, *names: str) -> None:
        self.nodes = {name: Candidacy() for name in names}
        self.away: set[str] = set()
        self.holder, self.until, self.now = "", 0.0, 0.0

    def second(self) -> str:
        """Go on by a second; returns who holds the lease then, if anybody."""
        for at, (name, node) in enumerate(self.nodes.items()):
            now = self.now + at / len(self.nodes)
            if node.stands(name in self.away, now):
                elected = self.holder == name or now >= self.until
                if elected:
                    self.holder, self.until = name, now + LEASE_S
                node.took(elected, now)
        self.now += 1
        return self.holder if self.until >= self.now else ""

    def seconds(self, n: float) -> list[str]:
        return [self.second() for _ in range(int(n))]


def test_a_sweeper_stays_the_one_while_it_can_send() -> None:
    assert set(Election("a", "b").seconds(100)) == {"a"}


def test_a_sweeper_that_cannot_send_is_followed_by_one_that_can_and_comes_not_back() -> None:
    election = Election("a", "b")
    election.seconds(20)
    election.away = {"a"}
    assert set(election.seconds(60)[int(YIELD_S) :]) == {"b"}
    election.away = set()
    assert set(election.seconds(60)) == {"b"}


def test_one_of_many_that_can_send_becomes_the_sweeper_soon() -> None:
    election = Election("a", "b", "c", "d")
    election.away = {"a", "b", "c"}
    assert set(election.seconds(120)[60:]) == {"d"}


def test_where_nobody_can_send_somebody_sweeps_most_of_the_time() -> None:
    for names in (("a",), ("a", "b"), ("a", "b", "c")):
        election = Election(*names)
        election.away = set(names)
        holders = election.seconds(20 * TURN_S)
        assert holders.count("") <= len(holders) * YIELD_S / (TURN_S + YIELD_S) + YIELD_S
        assert "" not in holders[int(YIELD_S) : int(YIELD_S + TURN_S)]


def test_who_can_send_again_stands_at_once() -> None:
    node = Candidacy()
    assert not node.stands(True, 0.0)
    assert node.stands(False, 0.5)
    assert not node.stands(True, 1.0)
    assert not node.stands(True, 1.0 + YIELD_S - 0.1)
    assert node.stands(True, 1.0 + YIELD_S)

"""The mutants of ``make mutants`` still apply to the source, load on a server, and the tests do kill."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.conftest import Server
from tests.integration.ledgers import Run
from tests.mutants.plugin import DoesNotApply, in_place, mutate
from tests.mutants.running import QUICK, judge
from tests.mutants.table import MUTANTS, Mutant
from toolkit.ledger import Connection, Ledger, library

SAMPLE = {"commit-offset": "commit", "breaker-share": "breaker", "ended-early": "release"}
"""Mutants tried here, and the file whose tests kill them."""


def test_every_mutant_applies_once_and_loads(server: Server) -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60
    assert {mutant.file for mutant in MUTANTS} == {
        "1_common.lua", "1_weights.lua", "2_input.lua", "3_claim.lua", "4_commit.lua", "5_leases.lua", "6_commands.lua",
        "9_index.lua",
    }  # fmt: skip
    real = library.prefix()
    for mutant in MUTANTS:
        with in_place(mutant), closing(Connection(server.address)) as connection:
            assert library.prefix() != real, mutant
            connection.load_functions()
            connection.command("FUNCTION", "DELETE", library.prefix().rstrip("_"))
    assert library.prefix() == real


def test_a_mutant_that_does_not_apply_any_more_is_named() -> None:
    for old in ("no such text", "local"):
        with pytest.raises(DoesNotApply, match=r"mutant lost: 1_common.lua has .* times"):
            mutate(library._body(), Mutant("lost", "1_common.lua", old, "", "nothing"))


def test_a_mutant_is_what_the_server_executes(server: Server) -> None:
    (mutant,) = (m for m in MUTANTS if m.name == "bury-counter")
    with in_place(mutant), closing(Ledger(server.address)) as ledger:
        run = Run(ledger, 4)
        run.die(1)
        assert (run.status().dead, run.reader.dead_indexes()) == (0, [1])
        ledger.connection.command("FUNCTION", "DELETE", library.prefix().rstrip("_"))


@pytest.mark.parametrize("name", SAMPLE)
def test_the_tests_kill(name: str) -> None:
    (mutant,) = (m for m in MUTANTS if m.name == name)
    assert SAMPLE[name] in QUICK
    verdict = judge(mutant, [[SAMPLE[name]]])
    assert verdict.killer, verdict

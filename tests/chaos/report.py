"""The final table of a campaign, with its goals."""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.campaign import Outcome

_PROMISES = (
    "lost", "counted twice", "wrongly dead", "not dead", "wrong result", "never executed", "counters", "final events",
    "verify", "stuck", "changed", "client",
)  # fmt: skip
_SHOWN = 20


def failures(outcome: Outcome, goals: Mapping[str, int], items: int, repeated: float | None = None) -> list[str]:
    """What was promised and did not happen; empty when all is well.

    Parameters
    ----------
    goals : mapping of str to int
        Least number of faults by target.
    items : int
        Least number of items.
    repeated : float, optional
        Largest share of executions beyond the needed ones.
    """
    verdict = outcome.verdict
    missing = [f"{t}: {outcome.faults[t]} of {n} faults" for t, n in goals.items() if outcome.faults[t] < n]
    if verdict.items < items:
        missing.append(f"items: {verdict.items:,} of {items:,}")
    if repeated is not None and verdict.repeated > repeated:
        missing.append(f"executed again: {verdict.repeated:.1%}, at most {repeated:.0%}")
    return [*missing, *(str(v) for v in verdict.violations)]


def table(outcome: Outcome, goals: Mapping[str, int], items: int, title: str) -> str:
    """The report as text."""
    verdict = outcome.verdict
    rows = [(f"faults: {target}", f"{outcome.faults[target]:,}", f">= {n:,}") for target, n in goals.items()]
    rows += [("items", f"{verdict.items:,}", f">= {items:,}"), ("runs", f"{outcome.runs:,}", "")]
    for promise in _PROMISES:
        broken = [v for v in verdict.violations if v.kind == promise]
        rows.append((promise, f"{sum(max(1, v.items) for v in broken):,}", "0"))
    rows += [
        ("dead by bad luck (3 random kills)", f"{len(verdict.unlucky)}", "explained"),
        ("executed again", f"{verdict.repeated:.2%}", ""),
        ("elapsed", f"{outcome.elapsed_s:.0f} s", ""),
    ]
    lines = [title, "", *(f"  {name:<36}{value:>14}  {goal}" for name, value, goal in rows), ""]
    lines += [f"  {name}: {value}" for name, value in outcome.figures.items()]
    lines.append("  faults by kind: " + ", ".join(f"{k} {n}" for k, n in sorted(outcome.kinds.items())))
    if outcome.missed:
        lines.append("  found nothing to hit: " + ", ".join(f"{k} {n}" for k, n in sorted(outcome.missed.items())))
    if outcome.frozen:
        told = ", ".join(f"{kind} {n}" for kind, n in sorted(outcome.frozen.items()))
        lines.append(f"  first commit of a frozen, busy process: {told}")
    lines += [f"  unlucky: {text}" for text in verdict.unlucky]
    lines += [f"  VIOLATION {v}" for v in verdict.violations[:_SHOWN]]
    if len(verdict.violations) > _SHOWN:
        lines.append(f"  ... and {len(verdict.violations) - _SHOWN} more")
    return "\n".join(lines)

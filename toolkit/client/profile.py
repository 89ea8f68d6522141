"""The profile of a run: where its sampled batches spent their time."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

from toolkit import renderers
from toolkit.errors import LedgerCorrupt, RunStateError
from toolkit.execution.profiling import Stacks, fold, unfold
from toolkit.records import one_line

if TYPE_CHECKING:
    import pandas as pd

_MAX_TEXT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples of a run's user code, 200 a second of each sampled batch.

    Attributes
    ----------
    run_id, task : str
        The run.
    batches : int
        Batches that were sampled.
    stacks : Counter of tuple of str
        Samples by stack, outermost function first.
    """

    run_id: str
    task: str
    batches: int = 0
    stacks: Stacks = field(default_factory=Counter, repr=False)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self.stacks.total()

    def folded(self) -> str:
        """Folded stacks, the text that flame graph tools read: ``outer;inner 12`` a line."""
        return fold(self.stacks)

    def frame(self) -> pd.DataFrame:
        """One row per function: columns function, own (samples in itself), total (also below), share (of all)."""
        from toolkit import frames

        return frames.profile_frame(self.stacks)

    def _repr_html_(self) -> str:
        render = renderers.get("profile_html")
        if render is not None:
            return str(render(self))
        lines = [escape(one_line(line, 10_000)) for line in self.folded().splitlines()]
        return "<pre>" + "\n".join(lines) + "</pre>"

    @classmethod
    def read(cls, run_id: str, task: str, events: Iterable[tuple[str, Mapping[str, str]]]) -> Profile:
        """Sum up the profiles among a run's events.

        Raises
        ------
        RunStateError
            There is none.
        LedgerCorrupt
            One does not parse.
        """
        stacks: Stacks = Counter()
        batches = 0
        for event_id, fields in events:
            if fields.get("event") != "profile":
                continue
            try:
                stacks.update(unfold(_inflate(base64.b64decode(fields.get("stacks", ""), validate=True))))
            except (ValueError, binascii.Error, zlib.error) as error:
                raise LedgerCorrupt(f"run {run_id}: event {event_id}: its profile does not parse ({error})") from error
            batches += 1
        if not batches:
            raise RunStateError(
                f"run {run_id} has no profile: submit it with client.map(..., profile=True); batches of a few "
                "milliseconds leave no samples"
            )
        return cls(run_id, task, batches, stacks)


def _inflate(packed: bytes) -> str:
    """Decompress a text that somebody may have made to grow without bound."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(packed, _MAX_TEXT)
    if not inflater.eof:
        raise ValueError("it is cut off, or too large")
    return text.decode()

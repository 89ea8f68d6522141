"""The only room that knows Redis: the ledger of runs, and what lies beside it.

Start with `keys` (what is stored), then ``functions/*.lua`` (the transitions), then `ledger` (their callers).
"""

from toolkit.ledger.calls import (
    NOBODY,
    TICKET_EXPIRY_S,
    UNKNOWN,
    Ask,
    Claim,
    Committed,
    Contact,
    Death,
    FailedItem,
    NoClaim,
    Progress,
    Range,
    Renewed,
    Swept,
    Weighed,
    new_claim_id,
)
from toolkit.ledger.checks import check_structure
from toolkit.ledger.connection import Connection
from toolkit.ledger.ledger import Ledger, Stored
from toolkit.ledger.pages import (
    PAGE_ITEMS,
    PAGE_SCALARS,
    Cuts,
    Draw,
    InputDigest,
    Page,
    PageCache,
    draw_from,
    draw_pages,
    make_pages,
    pack_output,
    weigh_page,
)
from toolkit.ledger.reading import Reader
from toolkit.ledger.registry import NODE_ALIVE_S, Registry
from toolkit.ledger.series import Flush, Segment, SeriesHead, SeriesName, SeriesStore
from toolkit.ledger.stored import StoredClaim

__all__ = [
    "NOBODY",
    "NODE_ALIVE_S",
    "PAGE_ITEMS",
    "PAGE_SCALARS",
    "TICKET_EXPIRY_S",
    "UNKNOWN",
    "Ask",
    "Claim",
    "Committed",
    "Connection",
    "Contact",
    "Cuts",
    "Death",
    "Draw",
    "FailedItem",
    "Flush",
    "InputDigest",
    "Ledger",
    "NoClaim",
    "Page",
    "PageCache",
    "Progress",
    "Range",
    "Reader",
    "Registry",
    "Renewed",
    "Segment",
    "SeriesHead",
    "SeriesName",
    "SeriesStore",
    "Stored",
    "StoredClaim",
    "Swept",
    "Weighed",
    "check_structure",
    "draw_from",
    "draw_pages",
    "make_pages",
    "new_claim_id",
    "pack_output",
    "weigh_page",
]

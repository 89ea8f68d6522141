"""Archive what is new, once, in a process of its own: ``python -m toolkit.archive``, as nodes start it.

What to do stands on standard input, so that no secret is on the command line or in the environment.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from pathlib import Path

from toolkit.archive.keeping import archive_all
from toolkit.errors import ToolkitError
from toolkit.ledger import Ledger, Registry
from toolkit.settings import ServerAddress


def main() -> int:
    """Return 0 when all is archived, 1 when something is not; says what on standard error."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    said = json.load(sys.stdin)
    password_file = said["password_file"]
    address = ServerAddress(
        said["url"], said["username"], said["password"], Path(password_file) if password_file else None
    )
    try:
        with closing(Ledger(address)) as ledger:
            done = archive_all(ledger, Registry(ledger.connection), Path(said["path"]), wait_s=0.0, least=said["least"])
    except ToolkitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 1 if done.failed else 0


if __name__ == "__main__":
    sys.exit(main())

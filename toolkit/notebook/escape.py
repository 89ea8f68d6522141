"""The one place where foreign text is made harmless.

Task names, errors, hosts, file names and column names are written by other people. Whatever a view shows goes through
one of four doors, one per output: `html` for markup, `plain` for terminals and logs, `figure` for text inside a
plot, `markdown` for Markdown.
"""

from __future__ import annotations

import html as _html
import re
from typing import Any, Final

LIMIT: Final = 300
"""Characters shown of one value, unless told otherwise."""

# Control characters, line and paragraph separators, surrogates that no encoder takes, the two code points that XML
# forbids, and the marks that reorder a line: they would let a name draw over its neighbours or break the document.
_UNSAFE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_SPACE: Final = re.compile(r"[\t\r\n\v\f\u2028\u2029]+")


def plain(value: Any, limit: int = LIMIT) -> str:
    """Return `value` as one line of printable text of at most `limit` characters.

    Line breaks and tabs become a space, other control and bidirectional characters the replacement character, so
    that no terminal sequence survives. A value whose ``str`` raises is named by its type.
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - a hostile or broken __str__ must not take the view down
        text = f"<{type(value).__name__}>"
    # Cut before cleaning: a traceback of many megabytes costs no more than a short one.
    cut = len(text) > limit
    text = _UNSAFE.sub("\ufffd", _SPACE.sub(" ", text[:limit]))
    return text[: max(0, limit - 1)] + "…" if cut else text


def html(value: Any, limit: int = LIMIT) -> str:
    """Return `value` as text that is safe inside an element and inside a quoted attribute."""
    return _html.escape(plain(value, limit), quote=True)


# As entities, which stay letters in every flavour of Markdown: what opens markup, code, mathematics and its delimiters.
_ENTITIES: Final = {ord(c): f"&#{ord(c)};" for c in "&<>`\\$"}
# With a backslash, which keeps the source readable; only where they would mean something.
_MARKS: Final = re.compile(
    r"[*\[\]|~!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|:(?=[a-z+-][\w+-]*:)|^[-+=#>]|^(\d+)(?=[.)](?:\s|$))"
)


def markdown(value: Any, limit: int = LIMIT) -> str:
    """Return `value` as one line of text that is nothing but text in Markdown, in a table's cell and inside markup too.

    It cannot mention a person, refer to an issue or link: an empty comment stands within what would.
    """
    text = plain(value, limit).strip().translate(_ENTITIES)
    text = _MARKS.sub(_marked, text)
    return re.sub(r"(?<![&\w])([@#])(?=\w)|\b(www)(?=\.)", r"\1\2<!-- -->", text, flags=re.IGNORECASE)


def _marked(match: re.Match[str]) -> str:
    digits = match.group(1)
    return f"&#{ord(digits[0])};{digits[1:]}" if digits else f"\\{match.group()}"


def figure(value: Any, limit: int = 60) -> str:
    r"""Return `value` as text for a plot: dollar signs are shown, not read as mathematics.

    matplotlib would parse ``$…$`` in any label, and raise on text that is no formula.
    """
    return plain(value, limit).replace("$", r"\$")


def block(value: Any, limit: int = 8000) -> str:
    """Return `value` as markup for a ``pre`` element: like `html`, with its line breaks kept.

    Of a longer text the end is kept, because a traceback says at its end what went wrong.
    """
    text = value if isinstance(value, str) else plain(value, limit)
    cut = len(text) > limit
    lines = re.split(r"\r\n|[\n\r\v\f\u2028\u2029]", text[-limit:] if cut else text)
    return ("…\n" if cut else "") + "\n".join(html(line.replace("\t", "    "), limit) for line in lines)

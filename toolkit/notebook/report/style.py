"""The style sheet of the report: light, dark and A4. The page's policy allows exactly this text, by its digest."""

from __future__ import annotations

from typing import Final

from toolkit.notebook.svg import CSS, LEAST_PX

# Okabe-Ito as published on light; on dark the blues are lifted until a line reaches a contrast of 3 with the ground.
LIGHT: Final = (
    "--ink:#1b1f24;--paper:#fff;--muted:#565d66;--grid:#d3d7dc;--card:#f5f7f9;--blue:#0072b2;--sky:#56b4e9;"
    "--green:#009e73;--orange:#e69f00;--vermillion:#d55e00;--purple:#cc79a7"
)
DARK: Final = (
    "--ink:#e8eaed;--paper:#14171a;--muted:#a9b0b8;--grid:#3a4047;--card:#1e2226;--blue:#3d9bd4;--sky:#7cc4ee;"
    "--green:#1fb98c;--orange:#e69f00;--vermillion:#f0803c;--purple:#d794ba"
)

STYLE: Final = (
    f":root{{color-scheme:light dark;{LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    "*{box-sizing:border-box}"
    "body{background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;"
    "max-width:56rem;margin:2.5rem auto;padding:0 1.25rem}"
    "h1{font-size:1.9rem;line-height:1.2;margin:0}h2{font-size:1.2rem;margin:2.4rem 0 .6rem}"
    ".note,figcaption,caption{color:var(--muted);font-size:.85rem}"
    ".note{margin:.4rem 0}"
    ".answer{border-left:5px solid var(--blue);background:var(--card);padding:.8rem 1rem;font-size:1.2rem;"
    "font-weight:600;margin:1.2rem 0}.refused{border-color:var(--vermillion)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(13rem,44%),1fr));gap:.7rem}"
    ".tiles div{background:var(--card);border-radius:.5rem;padding:.6rem .9rem;font-size:.8rem;"
    "color:var(--muted)}.tiles b{display:block;font-size:1.3rem;white-space:nowrap;color:var(--ink)}"
    "figure{margin:1.2rem 0 1.6rem;break-inside:avoid}figcaption{margin-top:.4rem}"
    # What is wider than the page scrolls in its own box, whose edge fades while there is more to see.
    ".wide{overflow-x:auto}@supports (animation-timeline:scroll()){.wide{animation:more linear both;"
    "animation-timeline:scroll(self inline)}}@keyframes more{"
    "from,92%{mask-image:linear-gradient(90deg,#000 calc(100% - 36px),#0003)}to{mask-image:none}}"
    f"@media screen{{figure svg{{min-width:{LEAST_PX}px}}td.text:last-child{{min-width:14em}}}}"
    "table{border-collapse:collapse;width:100%;font-size:.85rem;margin:.6rem 0;"
    "font-variant-numeric:tabular-nums}caption{text-align:left;padding:.3rem 0}"
    "th,td{border-bottom:1px solid var(--grid);padding:.3rem .5rem;text-align:right;vertical-align:top;"
    "white-space:nowrap}.text{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:8.5em}"
    "th.text{overflow-wrap:normal}.facts{width:auto}.facts th{font-weight:400;color:var(--muted);padding-right:1.5rem}"
    "pre{background:var(--card);padding:.7rem 1rem;border-radius:.5rem;white-space:pre-wrap;font-size:.85rem}"
    "summary{cursor:pointer;color:var(--muted)}"
    "@page{size:A4;margin:16mm 14mm}"
    f"@media print{{:root{{color-scheme:light;{LIGHT}}}body{{max-width:none;margin:0;padding:0;font-size:10pt}}"
    "h2,caption{break-after:avoid}thead{display:table-header-group}tr,.answer,.tiles,.facts{break-inside:avoid}"
    # Paper does not scroll: a table has to fit, and smaller pictures leave fewer gaps at the ends of pages.
    ".wide{overflow:visible;animation:none}.wide table{font-size:8pt}th,td{padding:.18rem .35rem}.text{min-width:5em}"
    "figure .wide{max-width:158mm}p,li{orphans:3;widows:3}"
    "summary{display:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"
    f"{CSS}"
)
"""The whole sheet; it holds no ``<`` or ``&``, so it is the same text in the page and in its digest."""

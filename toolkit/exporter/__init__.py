"""Metrics of a ledger for Prometheus: what waits, what is done, what fails, who works.

`watch` reads the ledger and keeps the counts, `collector` gives them the form of Prometheus, `serving` answers HTTP.
``grafana.json`` is a dashboard over them.
"""

from toolkit.exporter.watch import OTHER, Figures, Watch

__all__ = ["OTHER", "Figures", "Watch"]

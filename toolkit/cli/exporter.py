"""``toolkit exporter``: metrics for Prometheus."""

from __future__ import annotations

import ipaddress
import signal
import threading
from types import FrameType
from typing import Any

import click

from toolkit.cli.output import plain_errors
from toolkit.errors import InvalidInput
from toolkit.settings import ServerAddress, Settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9469, show_default=True, help="Port, 0 for a free one.")
@click.option("--task-limit", type=click.IntRange(min=1), default=100, show_default=True,
              help="Most tasks with a label of their own; the others share the label `other`.")  # fmt: skip
@click.option("--drain", "drain_s", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True,
              help="Seconds in which the recommended workers would finish the backlog.")  # fmt: skip
@click.option("--dashboard", is_flag=True, help="Print a Grafana dashboard over these metrics, and end.")
@click.pass_context
@plain_errors
def exporter(
    context: click.Context, host: str, port: int, task_limit: int, drain_s: float, dashboard: bool
) -> None:  # fmt: skip
    """Serve metrics of the ledger for Prometheus, until interrupted.

    It only reads: the user `dashboard` of `toolkit acl` is enough. There is neither password nor encryption on the
    port, so it listens on this machine alone unless --host says otherwise.
    """
    try:
        from toolkit.exporter.serving import DASHBOARD, serving
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{error.name} is not installed: pip install 'batch-analytics-toolkit[operators]'"
        ) from error
    if dashboard:
        click.echo(DASHBOARD.read_text(encoding="utf-8"), nl=False)
        return
    address = _address(context)
    done = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        done.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(address, host=host, port=port, task_limit=task_limit, drain_s=drain_s) as bound:
            shown = f"[{host}]" if ":" in host else host
            click.echo(f"metrics of {address} at http://{shown}:{bound}/metrics")
            if not _is_loopback(host):
                warning = "everybody who reaches this address reads names of tasks and figures; nothing else"
                click.echo(warning, err=True)
            done.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(context: click.Context) -> ServerAddress:
    """The ledger: as given, of the application, of the environment, or of the LocalCluster."""
    env, options = Settings.from_env(), context.obj
    url: str | None = options["ledger_url"]
    app = options["app"] or env.app
    if not url and app:
        from toolkit.client.celery_app import ledger_address
        from toolkit.transport import load_app

        return ledger_address(load_app(app), None, env)
    url = url or env.ledger_url
    if url:
        return ServerAddress.parse(url)
    from toolkit.cluster import LocalCluster

    return context.with_resource(LocalCluster(node=False)).address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_to(group: Any) -> None:
    """Make it a command of `group`."""
    group.add_command(exporter)

"""The recipe for journeys through a real JupyterLab in a real Chromium.

A server on loopback with a random token and directories of its own, a fresh workspace for every tab, and a handle
that runs cells and looks at outputs. Nothing waits for a time: every wait is for something on the page. To load
JupyterLab costs more processor time than most journeys, so a notebook is opened in the one that a tab shows already.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

START_S = 120.0
WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)
REPOSITORY = Path(__file__).resolve().parents[2]

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab.

    Attributes
    ----------
    url : str
        Where, with a slash at the end.
    token : str
        What opens it.
    root : pathlib.Path
        Directory of its notebooks.
    """

    url: str
    token: str
    root: Path

    def write(self, name: str, cells: Sequence[str], **metadata: Any) -> Path:
        """Write a notebook of code cells that were not run yet."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata.update(metadata)
        path = self.root / name
        nbformat.write(notebook, path)
        return path

    def copy_untrusted(self, name: str, new_name: str) -> Path:
        """Copy a saved notebook so that its signature no longer fits, as when it comes from someone else."""
        notebook = nbformat.read(self.root / name, as_version=4)
        notebook.metadata["copied_from"] = name
        path = self.root / new_name
        nbformat.write(notebook, path)
        return path


@contextmanager
def jupyter_lab(home: Path, extra_env: dict[str, str]) -> Iterator[Lab]:
    """Run JupyterLab below `home`, on a free port of loopback, with nothing of the user's configuration."""
    root, token = home / "work", secrets.token_hex(16)
    places = {
        "HOME": home,
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
    }
    for place in (root, *places.values()):
        place.mkdir(parents=True, exist_ok=True)
    # Cells outside of the window stay in the page, where a test can read them.
    settings = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
    # Each page would have Node.js asked whether the assets should be built anew.
    pages = home / "config" / "labconfig" / "page_config.json"
    pages.parent.mkdir(parents=True)
    pages.write_text(json.dumps({"buildCheck": False, "buildAvailable": False}))
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    env = {
        **os.environ,
        **{k: str(v) for k, v in places.items()},
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": path,
        **extra_env,
    }
    options = [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
        f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.cache_files=True",
        "--LabApp.extension_manager=readonly", "--KernelManager.shutdown_wait_time=60",
    ]  # fmt: skip
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=env)
    try:
        url = _address(server, home)
        yield Lab(url, token, root)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen[bytes], home: Path) -> str:
    """Wait until the server answers and return its address; it chose the port itself."""
    pause, deadline = threading.Event(), time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        for file in (home / "runtime").glob("jpserver-*.json"):
            try:
                url = str(json.loads(file.read_text())["url"])
                with urllib.request.urlopen(f"{url}api", timeout=5):  # noqa: S310 - loopback, from its own file
                    return url
            except (OSError, ValueError, KeyError):
                break  # the file is being written, or the server is not listening yet
        pause.wait(0.05)
    raise RuntimeError(f"JupyterLab did not start:\n{(home / 'server.log').read_text()[-4000:]}")


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Run a headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class NotebookPage:
    """A notebook that is open in JupyterLab.

    Parameters
    ----------
    page : playwright Page
        A tab: empty, or one that shows a JupyterLab whose notebooks were closed.
    lab : Lab
        The server.
    name : str
        File name of the notebook.
    """

    def __init__(self, page: Page, lab: Lab, name: str) -> None:
        self.page, self.lab, self.name = page, lab, name
        self.problems: list[str] = []
        self.left = False
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", self._note)
        page.on("dialog", self._answer)
        self.open()

    def _note(self, error: Any) -> None:
        self.problems.append(f"{error} {error.stack}")

    def _answer(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.problems.append(f"dialog: {dialog.message}")
        dialog.accept() if dialog.type == "beforeunload" else dialog.dismiss()

    def open(self) -> None:
        """Open the notebook, in a workspace of the tab's own, and wait until it is drawn."""
        if self.page.url.startswith(self.lab.url):
            script = "(path) => window.jupyterapp.commands.execute('docmanager:open', { path }).then(() => null)"
            self.page.evaluate(script, self.name)
            self._ready()
            return
        # A workspace that two tabs share would open the notebooks of both.
        workspace = re.sub(r"\W", "-", self.name) + "-" + secrets.token_hex(4)
        query = f"?token={self.lab.token}"
        self.page.goto(f"{self.lab.url}lab/workspaces/{workspace}/tree/{self.name}{query}")
        self._ready()

    def _ready(self) -> None:
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook", state="attached")
        self.page.wait_for_function(
            """(path) => { const panel = window.jupyterapp?.shell.currentWidget;
                 return panel?.context?.isReady && panel.context.path === path
                   && panel.content.widgets.every(cell => cell.isPlaceholder() === false); }""",
            arg=self.name,
        )

    def reload(self) -> None:
        """Reload the page; the kernel goes on."""
        self.page.reload()
        self._ready()
        self.wait_connected()

    def wait_connected(self) -> None:
        """Wait until the page holds a connection to a kernel."""
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.connectionStatus"
            " === 'connected'"
        )

    def kernel_status(self) -> str:
        """What the kernel says of itself: ``idle``, ``busy`` or another word."""
        script = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status ?? 'none'"
        return str(self.page.evaluate(script))

    def wait_kernel(self, status: str) -> None:
        """Wait until the kernel is `status`."""
        self.page.wait_for_function(
            "(s) => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === s", arg=status
        )

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run one cell; without `wait`, only send it."""
        if self.kernel_status() == "none":
            self.wait_connected()
            self.wait_kernel("idle")
        self.page.evaluate(
            """(i) => { const panel = window.jupyterapp.shell.currentWidget;
                 panel.content.activeCellIndex = i; panel.content.deselectAll();
                 window.__cell = window.jupyterapp.commands.execute('notebook:run-cell'); return null; }""",
            index,
        )
        if wait:
            self.page.evaluate("() => window.__cell.then(() => null)")

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save').then(() => null)")

    def saved(self) -> nbformat.NotebookNode:
        """The file as it was saved last."""
        return nbformat.read(self.lab.root / self.name, as_version=4)

    def output(self, index: int) -> Locator:
        """What a cell of the notebook in front shows below itself."""
        cells = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        return cells.nth(index).locator(".jp-Cell-outputArea")

    def panel(self, index: int) -> Locator:
        """The live panel of a run below a cell."""
        return self.output(index).locator(".tk-run-panel")

    def expect_no_lost_widget(self) -> None:
        """Nothing is seen of widgets whose kernel is gone."""
        for words in ("Loading widget", "model not found"):
            expect(self.page.get_by_text(words).filter(visible=True)).to_have_count(0)

    def shut_down(self) -> None:
        """Shut the kernel down, once it has started: JupyterLab reports errors of a notebook that is closed before.

        One that was shut down before is never ready again, so that is waited for some seconds only.
        """
        self.page.evaluate(
            """async () => { const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
                 const soon = new Promise(done => setTimeout(done, 5000));
                 try { await Promise.race([context?.ready, soon]); await context?.shutdown(); } catch { }
                 return null; }"""
        )

    def leave(self) -> None:
        """Shut the kernel down and close the notebook, if it was not closed before; the tab is free for another one."""
        if self.left:
            return
        self.left = True
        self.shut_down()
        # A reloaded page may hold the notebook twice, as its address and as its saved layout name it: all of them go.
        self.page.evaluate(
            """async () => { const app = window.jupyterapp; await app.restored;
                 for (const widget of [...app.shell.widgets('main')]) widget.dispose();
                 return null; }"""
        )
        self.page.remove_listener("pageerror", self._note)
        self.page.remove_listener("dialog", self._answer)

    def close(self) -> None:
        """Shut the kernel down and close the tab, if it was not closed before."""
        if not self.page.is_closed():
            self.shut_down()
            self.page.close()


__all__ = ["Browser", "Lab", "Locator", "NotebookPage", "Page", "chromium", "expect", "find_chromium", "jupyter_lab"]

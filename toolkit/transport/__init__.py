"""How a ticket reaches a worker: the only room that knows Celery."""

from toolkit.transport.app import App, load_app, make_app, task_names
from toolkit.transport.installing import give_back, install, installed
from toolkit.transport.tickets import issue, publish

__all__ = ["App", "give_back", "install", "installed", "issue", "load_app", "make_app", "publish", "task_names"]

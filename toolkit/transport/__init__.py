"""How a ticket reaches a worker: the only room that knows Celery."""

from toolkit.transport.app import make_app
from toolkit.transport.install import install, installed
from toolkit.transport.tickets import issue, publish

__all__ = ["install", "installed", "issue", "make_app", "publish"]

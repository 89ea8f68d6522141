"""The Celery application that the campaign's nodes load."""

from __future__ import annotations

import os

import toolkit
from tests.chaos import BROKER, LEDGER, QUEUE, failpoints
from toolkit.transport import make_app

app = make_app(os.environ[BROKER], QUEUE, "chaos")
app.conf.imports = ("tests.chaos.tasks",)
toolkit.install(app, ledger_url=os.environ[LEDGER])
failpoints.arm()

"""Tasks that a Celery application knows, made callable item by item."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.task import Task as CeleryTask
from celery.exceptions import Ignore, Reject, Retry

from toolkit.errors import UnknownTask
from toolkit.execution import Task, current_item


class _RetryItem(Exception):
    """An item asked to be tried again, through Celery's own verbs."""

    def __init__(self, cause: BaseException | None, delay_s: float) -> None:
        super().__init__(str(cause) if cause is not None else "retry")
        self.toolkit_retry_delay_s = delay_s
        self.__cause__ = cause


def adapt(app: Celery, name: str) -> Task:
    """Return the registered task `name` as a per-item task.

    ``bind=True`` works, and ``self.retry`` and ``autoretry_for`` mean a retry of the item: no Celery message is sent.

    Raises
    ------
    UnknownTask
        The application of this process has no such task.
    """
    celery_task = app.tasks.get(name)
    if celery_task is None:
        raise UnknownTask(
            f"task {name!r} is not registered in the Celery application of this worker; import its module in the "
            "application (include=[...]) and restart the worker"
        )
    custom_call = type(celery_task).__call__ is not CeleryTask.__call__
    run = celery_task if custom_call else celery_task.run

    def call(*args: Any, **kwargs: Any) -> Any:
        item = current_item()
        attempt = item.attempt if item is not None else 1
        # is_eager makes Celery raise Retry instead of publishing a message of its own.
        celery_task.push_request(
            id=f"{item.run_id}:{item.index}" if item is not None else None, args=args, kwargs=kwargs,
            retries=attempt - 1, is_eager=True, called_directly=False, delivery_info={},
        )  # fmt: skip
        try:
            return run(*args, **kwargs)
        except Retry as retry:
            when = retry.when
            raise _RetryItem(retry.exc, float(when) if isinstance(when, int | float) else 0.0) from retry.exc
        except Ignore:
            return None
        except Reject as reject:
            raise RuntimeError(f"the task rejected the item: {reject.reason}") from reject
        finally:
            celery_task.pop_request()

    call.__name__ = getattr(celery_task, "__name__", name)
    call.__doc__ = celery_task.__doc__
    call.__wrapped__ = getattr(celery_task, "_orig_run", celery_task.run)  # type: ignore[attr-defined]
    return Task(call, name=name)


def celery_max_attempts(app: Celery, name: str) -> int | None:
    """Attempts that a registered task grants an item, None when it sets no limit or is not known here."""
    celery_task = app.tasks.get(name)
    if celery_task is None or celery_task.max_retries is None:
        return None
    return int(celery_task.max_retries) + 1

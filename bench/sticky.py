"""Plugin of pytest: a process whose GPU is lost runs no further test.

An error that stays, such as an illegal address, fails every later call of its process, so that one
test would fail all that follow. With xdist the process ends and another takes its place; alone it
stops.
"""

import os

import pytest


def lost() -> bool:
    """See `bench.worker.lost`; torch is imported only once a test has failed."""
    from bench import worker

    return worker.lost()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and lost():
        item.session.shouldstop = f"the GPU answers no more after {item.nodeid}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str) -> None:
    """Once a worker's reports are sent; xdist then names this test as the one that crashed."""
    if Ending.session is not None and Ending.session.shouldstop:
        os._exit(75)


class Ending:
    """The session of a worker of xdist; None in a process that reports to nobody."""

    session: pytest.Session | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        Ending.session = session

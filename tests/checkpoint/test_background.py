import signal
import threading
import time

import pytest

from hcnr.checkpoint.background import Background, Stopped


def test_jobs_are_done_in_order_by_another_thread_that_is_gone_afterwards():
    done: list[tuple[int, int]] = []
    before = threading.active_count()
    with Background() as background:
        for number in range(20):
            background.do(lambda number=number: done.append((number, threading.get_ident())))
    assert [number for number, _ in done] == list(range(20))
    (thread,) = {thread for _, thread in done}
    assert thread != threading.get_ident()
    assert threading.active_count() == before
    with Background():
        assert threading.active_count() == before, "no job, no thread"


def test_no_more_jobs_wait_than_are_allowed():
    go, started = threading.Event(), threading.Event()
    told: list[int] = []

    def wait() -> None:
        started.set()
        go.wait()

    def meanwhile() -> None:
        told.append(len(told))
        if len(told) > 5:
            go.set()

    with Background(1, meanwhile) as background:
        background.do(wait)
        started.wait()
        background.do(lambda: None)
        assert not go.is_set()
        # One is carried out and one waits, so this one is not taken before something is done.
        background.do(lambda: None)
        assert go.is_set() and len(told) > 5


def test_an_error_reaches_the_caller_as_it_is_and_ends_the_jobs():
    error, done = ZeroDivisionError("the very one"), []

    def fail() -> None:
        raise error

    def ask() -> None:
        with Background() as background:
            background.do(fail)
            while True:
                background.do(lambda: done.append(1))
                time.sleep(0.01)

    with pytest.raises(ZeroDivisionError) as raised:
        ask()
    assert raised.value is error and not done
    with pytest.raises(ZeroDivisionError), Background() as background:
        background.do(fail)


def test_a_long_job_is_told_to_stop_when_the_body_fails():
    seen: list[str] = []

    def endless() -> None:
        try:
            while True:
                background.check()
                time.sleep(0.001)
        except Stopped:
            seen.append("stopped")
            raise

    with pytest.raises(KeyError), Background() as background:
        background.do(endless)
        background.do(lambda: seen.append("begun"))
        raise KeyError
    assert seen == ["stopped"]


def test_ctrl_c_while_the_thread_is_waited_for_is_raised_when_it_has_ended():
    held, ended = threading.Event(), []

    def slow() -> None:
        held.set()
        time.sleep(0.5)
        ended.append(1)

    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt), Background() as background:
        background.do(slow)
        held.wait()
        timer.start()
        raise KeyError
    assert ended == [1]

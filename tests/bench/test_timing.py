"""How launches are timed, on a pretended device: work in a queue, and a host that fills it."""

import pytest
import torch

from bench import timing


class Device:
    """A queue: `now` is the host's clock, `free` when the device will have done all; both in ms."""

    def __init__(self) -> None:
        self.now = self.free = 0.0

    def sleep(self, cycles: int) -> None:
        self.run(0.0, cycles / timing.CYCLES_PER_MS)

    def run(self, launching: float, working: float) -> None:
        self.now += launching
        self.free = max(self.free, self.now) + working

    def synchronize(self, *_: object) -> None:
        self.now = max(self.now, self.free)


class Event:
    """Happens when the device comes to it."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def record(self) -> None:
        self.when = max(self._device.free, self._device.now)

    def query(self) -> bool:
        return self.when <= self._device.now

    def synchronize(self) -> None:
        self._device.now = max(self._device.now, self.when)

    def elapsed_time(self, other: "Event") -> float:
        return other.when - self.when


@pytest.fixture
def device(monkeypatch):
    made = Device()
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(made))
    monkeypatch.setattr(torch.cuda, "_sleep", made.sleep)
    monkeypatch.setattr(torch.cuda, "synchronize", made.synchronize)
    monkeypatch.setattr(timing, "cold_cache", lambda _: lambda: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now / 1e3)
    return made


def launches(device, count, launching, working):
    def call():
        for _ in range(count):
            device.run(launching, working)

    return call


def timed(contenders):
    return timing.interleaved(contenders, torch.device("cuda"), seconds=0.1, least=5)


def test_many_launches_are_timed_as_the_device_does_them(device):
    """14 launches of 75 us, each of which works 14 us: 0.2 ms, though the host takes 1.05 ms."""
    found = timed({"ours": launches(device, 14, 0.075, 0.014)})["ours"]
    assert found.p50 == pytest.approx(14 * 0.014)
    assert found.host == pytest.approx(14 * 0.075)
    assert found.ahead == 1.0


def test_a_call_of_many_milliseconds_of_launching_too(device):
    found = timed({"ours": launches(device, 400, 0.0125, 0.001)})["ours"]
    assert found.p50 == pytest.approx(0.4)
    assert found.ahead == 1.0


def test_a_call_that_waits_for_the_device_says_so(device):
    def waits():
        device.run(0.05, 2.0)
        device.synchronize()
        device.run(0.05, 2.0)

    found = timed({"ours": waits})["ours"]
    assert found.p50 == pytest.approx(4.05)
    assert found.ahead == 0.0


def test_a_rival_that_is_far_slower_is_run_less_often(device):
    runs = {"slow": 0, "ours": 0}

    def counted(name, working):
        def call():
            runs[name] += 1
            device.run(0.01, working)

        return call

    timed({"ours": counted("ours", 1.0), "slow": counted("slow", 20.0)})
    # One to warm up and one to look at, beside those that count.
    assert runs["slow"] == timing.SLOW_RUNS + 2
    assert runs["ours"] >= 5 + 2

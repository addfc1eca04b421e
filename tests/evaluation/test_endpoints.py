"""Answers through an OpenAI-compatible server: the numbers, going on, and what is refused."""

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

import hcnr
from commands import run
from completions import serving
from hcnr.benchmarks.questions import Benchmark, Question
from hcnr.data.items import Message
from hcnr.errors import ConfigError, DataError, ModelError, OutputError
from hcnr.evaluation.endpoints import client
from hcnr.evaluation.endpoints.server import KEY, Endpoint, open_server
from hcnr.evaluation.responses import score_responses
from pairs import write_jsonl

SECRET = "sk-a-secret-of-the-tests"
QUICK: dict[str, Any] = {"resamples": 20, "batch_size": 4}


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


def questions(name, n, *, task=False):
    return Benchmark(
        name,
        tuple(
            Question(
                id=str(i), set=name, question=f"{name} {i}", answerable=task or i % 2 == 1,
                answers=(f"right {i}",) if task or i % 2 else (), prompt=f"{name} {i}?", task=task,
            )
            for i in range(n)
        ),
        "unknownbench_keywords", "0" * 64, "invented",
    )  # fmt: skip


MINE, JOB = questions("mine", 12), questions("job", 6, task=True)


def honest(model, prompt):
    """Refuses what is even of `mine`, and answers the rest rightly; `careless` never refuses."""
    name, number = prompt.rstrip("?").split()
    if name == "mine" and int(number) % 2 == 0 and model != "careless":
        return " I do not know. "
    return f"It is right {number}."


def evaluate(url, out=None, model=None, **more):
    return hcnr.evaluate(
        Endpoint(url, model), benchmarks=[MINE], tasks=[JOB], out=out, **{**QUICK, **more}
    )


def test_the_numbers_are_those_of_the_answers(tmp_path):
    with serving(honest, ["honest", "careless"]) as server:
        found = evaluate(server.url, tmp_path, "honest",
                         against=[Endpoint(server.url, "careless")])  # fmt: skip
    assert found["model"] == "honest"
    assert found["macro"]["refusal_delta"] == 100 and found["tasks_macro"]["accuracy"] == 100
    assert found["models"]["careless"]["macro"]["refusal_delta"] == 0
    assert found["differences"]["careless"]["macro"]["refusal_delta"]["value"] == 100
    assert found["fingerprints"] == found["sha256"] == {}
    assert found["endpoints"]["careless"] == {"url": server.url, "model": "careless"}
    assert any("shows no weights, so there is no fingerprint" in one for one in found["notes"])
    again = score_responses(tmp_path / "answers-honest.jsonl")
    assert again["sets"]["mine"]["refusal_delta"] == 100
    path, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 64, False)
    assert body["repetition_penalty"] == 1, "a generation config of the model would make it others"
    assert body["messages"][0]["role"] == "user"


def test_no_more_requests_at_once_than_asked_for():
    with serving(honest, ["m"], delay=lambda: time.sleep(0.02)) as server:
        evaluate(server.url, batch_size=3)
    assert 1 < server.most <= 3 and len(server.requests) == 18


def test_a_run_that_was_cut_short_goes_on(tmp_path):
    with serving(honest, ["m"]) as server:
        whole = evaluate(server.url, tmp_path / "whole")
    with serving(honest, ["m"]) as server:
        seen = []

        def stop():
            seen.append(1)
            if len(seen) == 9:
                server.failures = [(400, {"error": {"message": "too long"}}, {})] * 20

        server.delay = stop
        out = tmp_path / "cut"
        with pytest.raises(DataError, match=r"refuses question '\d+' of .* status 400 \(too long"):
            evaluate(server.url, out, batch_size=1)
        kept = (out / "answers-m.jsonl").read_text().splitlines()
        assert 1 < len(kept) < 19 and not (out / "metrics.json").exists()
        server.failures, before = [], len(server.requests)
        again = evaluate(server.url, out)
        assert len(server.requests) - before == 18 - (len(kept) - 1)
    assert again["sets"] == whole["sets"] and again["tasks"] == whole["tasks"]


def test_answers_of_another_model_or_setting_are_not_gone_on_with(tmp_path):
    with serving(honest, ["m"]) as server:
        evaluate(server.url, tmp_path)
        with pytest.raises(OutputError, match="holds answers with max_new_tokens 64"):
            evaluate(server.url, tmp_path, max_new_tokens=32)
    with (
        serving(honest, ["m"]) as server,
        pytest.raises(OutputError, match="answers with endpoint"),
    ):
        evaluate(server.url, tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status):
    with serving(honest, ["m"]) as server:
        server.failures = [(status, {"error": "busy"}, {"Retry-After": "0"})] * 3
        found = evaluate(server.url)
        assert found["macro"]["refusal_delta"] == 100 and len(server.requests) == 18 + 3
        server.failures = [(status, {"error": "busy"}, {})] * 500
        with pytest.raises(ModelError, match=rf"status {status} \(busy\) 5 times"):
            evaluate(server.url)


def test_waits_double_and_heed_what_the_server_asks_for(monkeypatch):
    waits = []
    monkeypatch.setattr(client, "FIRST_WAIT", 1.0)
    with serving(honest, ["m"]) as server:
        asked = open_server(Endpoint(server.url))
        never = SimpleNamespace(wait=waits.append, is_set=lambda: False, set=lambda: None)
        asked._client._stopped = never  # pyright: ignore
        server.failures = [(503, {}, {}), (503, {}, {}), (429, {}, {"Retry-After": "7"})]
        assert asked.answer("mine 1?", 8, "q") == "It is right 1."
        asked.close()
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 and waits[2] == 7


def test_a_key_is_sent_and_never_shown(tmp_path, monkeypatch):
    with serving(honest, ["m"], key=SECRET) as server:
        with pytest.raises(ModelError, match=f"wants a key, and none is set.*{KEY}"):
            evaluate(server.url)
        monkeypatch.setenv(KEY, "sk-wrong-one")
        with pytest.raises(ModelError, match="refuses the key") as refused:
            evaluate(server.url)
        assert "sk-wrong-one" not in str(refused.value)
        monkeypatch.setenv(KEY, SECRET)
        evaluate(server.url, tmp_path)
        assert server.keys[-1] == f"Bearer {SECRET}"
        server.failures = [(400, {"error": {"message": f"bad Bearer {SECRET}"}}, {})]
        with pytest.raises(DataError, match=r"bad Bearer \*\*\*") as refused:
            evaluate(server.url)
    assert SECRET not in str(refused.value)
    assert not any(SECRET in path.read_text() for path in tmp_path.iterdir())
    monkeypatch.setenv(KEY, "a\nb" + SECRET)
    with pytest.raises(ConfigError, match="holds what no header may") as refused:
        evaluate(server.url)
    assert SECRET not in str(refused.value)


def test_a_redirect_is_not_followed():
    with serving(honest, ["m"]) as other, serving(honest, ["m"]) as server:
        server.failures = [(307, {}, {"Location": other.url + "/chat/completions"})] * 40
        with pytest.raises(DataError, match="status 307"):
            evaluate(server.url)
        assert not other.requests


def test_what_is_no_server():
    with serving(honest, ["m"]) as server:
        gone = server.url
    with pytest.raises(ModelError, match=r"cannot be reached \(.*refused.*\); start it"):
        evaluate(gone)
    for url, message in (
        ("localhost:8000", "is no address of a server"),
        ("ftp://host", "is no address of a server"),
        ("http://host:port", "is no address of a server"),
        (f"http://me:{SECRET}@host", "holds a user, a password or a query"),
        (f"http://host/v1?key={SECRET}", "holds a user, a password or a query"),
    ):
        with pytest.raises(ConfigError, match=message) as refused:
            Endpoint(url)
        assert SECRET not in str(refused.value)
    assert Endpoint("http://host:8000").url == "http://host:8000/v1"
    assert Endpoint("http://host/v1/chat/completions").url == "http://host/v1"


def test_models_are_named():
    with serving(honest, ["a", "b"]) as server:
        with pytest.raises(ConfigError, match="has a, b, and none was named"):
            evaluate(server.url)
        with pytest.raises(ConfigError, match="has no model 'c', but a, b; name one"):
            evaluate(server.url, model="c")
        with pytest.raises(ConfigError, match="given twice"):
            evaluate(server.url, model="a", against=[Endpoint(server.url, "a")])
    with serving(honest, None) as server:
        with pytest.raises(ConfigError, match="does not say which models it has"):
            evaluate(server.url)
        server.failures = [(404, {"error": {"message": "The model `c` does not exist."}}, {})]
        with pytest.raises(ModelError, match=r"knows no model 'c'.*\(The model `c` does not exi"):
            evaluate(server.url, model="c", batch_size=1)
    with serving(honest, ["/models/tuned-q8.gguf"]) as server:
        assert evaluate(server.url)["model"] == "tuned-q8.gguf"


def test_a_server_that_is_too_slow():
    stop = threading.Event()
    with serving(honest, ["m"], delay=lambda: stop.wait(30)) as server:
        slow = Endpoint(server.url, "m", timeout=0.1)
        try:
            with pytest.raises(ModelError, match=r"did not answer within 0\.1 seconds"):
                hcnr.evaluate(slow, benchmarks=[MINE], **QUICK)
        finally:
            stop.set()


def test_what_is_no_completion():
    for said in (5, ["a"]):
        with (
            serving(lambda *_, said=said: said, ["m"]) as server,
            pytest.raises(ModelError, match="something that is no completion"),
        ):
            evaluate(server.url)
    with serving(lambda *_: None, ["m"]) as server, pytest.raises(ModelError, match="nothing for"):
        evaluate(server.url)


def test_what_a_server_does_not_know_is_left_out():
    with serving(honest, ["m"]) as server:
        server.failures = [(400, {"error": "unknown argument: repetition_penalty"}, {})]
        evaluate(server.url, batch_size=1)
    assert "repetition_penalty" in server.requests[0][1]
    assert not any("repetition_penalty" in body for _, body in server.requests[1:])
    assert len(server.requests) == 18 + 1


def test_a_chat_and_a_plain_text():
    turns = (Message("system", "Be brief."), Message("user", "mine 1?"))
    asked = Question("1", "mine", "q", True, ("right 1",), "mine 1?", turns=turns)
    chat = Benchmark("mine", (asked,), "unknownbench_keywords", "0", "invented")
    with serving(honest, ["m"]) as server:
        hcnr.evaluate(Endpoint(server.url), benchmarks=[chat], **QUICK)
        assert [turn["role"] for turn in server.requests[0][1]["messages"]] == ["system", "user"]
        with pytest.raises(DataError, match="needs a chat, expected one user turn"):
            hcnr.evaluate(Endpoint(server.url), benchmarks=[chat], chat_template="never", **QUICK)
        server.requests.clear()
        found = evaluate(server.url, chat_template="never")
    assert server.requests[0][0] == "/v1/completions"
    assert {body["prompt"] for _, body in server.requests} >= {"mine 0?", "job 5?"}
    assert found["macro"]["refusal_delta"] == 100


def test_what_only_weights_tell_is_refused(pair):
    end = Endpoint("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="calibration needs the probabilities"):
        hcnr.evaluate(end, benchmarks=[MINE], calibration=True)
    with pytest.raises(ConfigError, match="interpolation needs the weights"):
        hcnr.evaluate(end, benchmarks=[MINE], base=pair["base"], tuned=pair["tuned"])


def test_beside_a_checkpoint(pair, tmp_path):
    """Both are asked the same questions; only one of them has a fingerprint."""
    mine = Benchmark(
        "mine", tuple(Question(str(i), "mine", f"w{i}", i % 2 == 0, (), f"w{i} w9")
                      for i in range(4)), "unknownbench_keywords", "0", "invented",
    )  # fmt: skip
    with serving(lambda *_: "no", ["tuned"]) as server:
        found = hcnr.evaluate(
            Endpoint(server.url), benchmarks=[mine], against=[pair["base"]], out=tmp_path,
            max_new_tokens=3, device="cpu", **QUICK,
        )  # fmt: skip
        again = hcnr.evaluate(
            pair["tuned"], benchmarks=[mine], against=[Endpoint(server.url)], max_new_tokens=3,
            device="cpu", **QUICK,
        )  # fmt: skip
    assert again["model"] == "tuned" and next(iter(again["models"])).startswith("served-tuned-")
    assert found["model"] == "tuned" and list(found["models"]) == ["base"]
    assert list(found["fingerprints"]) == list(found["sha256"]) == ["base"]


def test_the_command(tmp_path):
    rows = [{"question": f"mine {i}", "answerable": i % 2 == 1} for i in range(6)]
    mine = write_jsonl(tmp_path / "mine.jsonl", rows)
    with serving(honest, ["honest", "careless"]) as server:
        common = ("evaluate", "--endpoint", server.url, "--benchmarks", mine)
        names = ("--endpoint-model", "honest", "--endpoint-model", "careless")
        shown = run(*common, *names, "--out", tmp_path / "e", "--resamples", 0)
        wrong = run(*common, "--endpoint-model", "other", code=2)
    assert "has no model 'other'" in wrong.stderr
    assert "an endpoint shows no weights" in " ".join(shown.stdout.split())
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert found["sets"]["mine"]["refusal_delta"] == 100

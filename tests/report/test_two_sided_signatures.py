import pytest

from hcnr.repair.task_weight import LARGEST, SMALLEST
from hcnr.report.gather import gather
from hcnr.report.signatures.signatures import CHECKS, OF_NEURONS, failure_signatures


@pytest.fixture
def found(make_run, invented):
    """All outcomes by key, after a change of the invented report."""

    def of(kind="spectral", change=None, metrics=None, **settings):
        report = invented.two_sided(kind, **settings)
        if change is not None:
            change(report)
        run = gather(make_run(report=report, metrics=metrics))
        return {s.key: s for s in failure_signatures(run)}

    return of


COMMON = {key for key, _, _ in CHECKS} - OF_NEURONS
SEARCH, STEPS = {"search_high", "search_low"}, {"step_rose", "no_progress"}


@pytest.mark.parametrize(
    ("kind", "settings", "own"),
    [
        ("spectral", {}, SEARCH | {"left"}),
        ("spectral", {"searched": False}, {"left"}),
        ("natural", {"searched": False}, STEPS),
        ("spectral+natural", {}, SEARCH | STEPS),
    ],
)
def test_a_good_run_fires_nothing(found, kind, settings, own):
    states = {key: s.state for key, s in found(kind, **settings).items()}
    assert set(states) == COMMON | own | {"damping", "condition"}
    assert {states[key] for key in own | {"damping", "condition"}} == {"fine"}


def test_a_searched_weight_of_another_kind_keeps_the_other_checks(make_run, invented):
    report = invented.report()
    report["two_sided"] = invented.two_sided()["two_sided"] | {"kind": "balanced"}
    keys = [s.key for s in failure_signatures(gather(make_run(report=report)))]
    assert keys == [*(key for key, _, _ in CHECKS), "search_high", "search_low"]


def losses(*values):
    def change(report):
        report["two_sided"]["steps"] = [
            {"step": place, "honesty_loss": value, "share": 0.3}
            for place, value in enumerate(values[:-1], 1)
        ]
        report["two_sided"]["honesty_loss"] = values[-1]

    return change


def test_a_step_that_went_too_far(found):
    one = found("natural", losses(2.0, 1.5, 1.9, 1.8))["step_rose"]
    assert one.finding == "The honesty loss rose in natural step 2 of 3, from 1.5 to 1.9."
    assert "a smaller --step-size (it was 0.3), or with fewer --steps" in one.advice
    assert found("natural", losses(2.0, 2.1))["step_rose"].advice.endswith("(it was 0.3).")
    assert found("natural", losses(2.0, None))["step_rose"].state == "unknown"


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ((2.0, 1.98), "fine"), ((2.0, 1.981), "fired"), ((2.0, 2.1), "fine"),
        ((2.0, None), "unknown"),
    ],
)  # fmt: skip
def test_steps_that_did_nothing(found, values, state):
    assert found("natural", losses(*values))["no_progress"].state == state


@pytest.mark.parametrize(
    ("mu", "high", "low"),
    [
        (SMALLEST, "fine", "fired"), (SMALLEST * 1.1, "fine", "fine"),
        (LARGEST / 11, "fine", "fine"), (LARGEST / 10, "fired", "fine"),
        (None, "unknown", "unknown"),
    ],
)  # fmt: skip
def test_a_search_that_ended_at_its_limits(found, mu, high, low):
    def change(report):
        report["two_sided"]["task_weight"] = mu

    signatures = found(change=change)
    assert (signatures["search_high"].state, signatures["search_low"].state) == (high, low)
    if high == "fired":
        assert "keep 98% of the task's" in signatures["search_high"].finding
        assert "a larger --max-task-drop-percent (it is 2)" in signatures["search_high"].advice


@pytest.mark.parametrize(("share", "state"), [(0.9, "fine"), (0.91, "fired"), (None, "unknown")])
def test_hardly_anything_given_back(found, share, state):
    def change(report):
        for record in report["matrices"]:
            record["two_sided"]["honesty_left"] = share

    one = found(change=change)["left"]
    assert one.state == state
    if state == "fired":
        assert one.finding.startswith("91% of the honesty term is left")
        assert "smaller --task-weight (mu was 3.16)" in one.advice


def test_damping_and_condition_name_the_axis(found):
    def change(report):
        report["matrices"][1].update(name="model.layers.9.x")
        report["matrices"][1]["two_sided"] |= {"damping": [0.01, 0.4], "condition": [3e6, 10.0]}
        report["matrices"][2]["two_sided"] |= {"damping": [0.1, 0.01], "condition": ["inf", 10.0]}

    signatures = found(change=change)
    assert "2 of 22 matrices, the highest to 0.4 on the input axis of model.layers.9.x" in (
        signatures["damping"].finding
    )
    assert "2 of 22 matrices has a condition above 1,000,000, the highest inf on the output" in (
        signatures["condition"].finding
    )


def test_without_numbers_nothing_is_claimed(found):
    def change(report):
        for record in report["matrices"]:
            record["two_sided"] = {"task_weight": 1.0}

    signatures = found(change=change)
    assert {signatures[key].state for key in ("damping", "condition", "left")} == {"unknown"}


@pytest.mark.parametrize(
    ("kind", "task", "honesty"),
    [
        (
            "spectral",
            "--task-weight (mu was 3.16), or search with a smaller",
            "--compensation spectral+natural",
        ),
        ("natural", "Or step less far (--step-size, --steps).", "Step further (--step-size"),
    ],
)
def test_advice_knows_the_kind(found, invented, kind, task, honesty):
    metrics = invented.metrics()
    metrics["tasks_macro"]["accuracy"] = 20.0
    metrics["macro"]["refusal_delta"] = 9.0
    metrics["recommendation"]["interpolation"]["lead"]["ci95"] = [-30.0, 1.0]
    signatures = found(kind, metrics=metrics)
    assert task in signatures["task_drop"].advice
    assert honesty in signatures["delta_low"].advice
    assert "--cross-weight-ratio 1.0, another --task-weight" in signatures["rival"].advice
    given = found(kind, metrics=metrics, searched=False)["task_drop"].advice
    assert "--task-weight auto" in given and "--in-weight-ratio" not in given

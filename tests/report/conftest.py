"""Invented runs, evaluations, sweeps and probes, as the files of other commands hold them."""

import json
import math
from types import SimpleNamespace

import pytest

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def wave(index, step, low, high):
    """Numbers that look measured, and are the same in every run."""
    return low + (high - low) * (0.5 + 0.5 * math.sin(index * step + step))


def invented_report(blocks=8, **changes):
    names = [f"model.layers.{block}.{kind}" for block in range(blocks) for kind in KINDS]
    perturbation = {
        name: wave(i, 0.7, 0.01, 0.05) * (1 + (i // 7) / blocks) for i, name in enumerate(names)
    }
    chosen = sorted(names, key=lambda name: -perturbation[name])[: round(0.4 * len(names))]
    records = [
        {
            "name": name, "neurons": 1024, "restored": 512, "parameters": 512 * 1024,
            "perturbation": perturbation[name], "half_overlap": wave(i, 1.3, 0.7, 0.9),
            "damping": 0.01, "damping_raised": False, "condition": 10 ** wave(i, 0.9, 2.2, 5.4),
            "dead": 0, "rank_deficient": False, "objective_none": wave(i, 0.4, 1e-3, 4e-3),
            "objective": wave(i, 0.4, 1e-3, 4e-3) * wave(i, 1.9, 0.35, 0.95), "device": "cuda:0",
        }
        for i, name in enumerate(name for name in names if name in chosen)
    ]  # fmt: skip
    report = {
        "pair": {"base": "/models/honest-8b", "tuned": "/models/honest-8b-hotpotqa",
                 "fingerprints": {"base": "aaaa1111bbbb2222", "tuned": "cccc3333dddd4444"}},
        "config": {"axis": "output", "in_weight_ratio": 0.5, "cross_weight_ratio": 0.4,
                   "priority": "kl", "compensation": "sum", "damping": 0.01},
        "data": {
            name: {"source": f"/data/{name}-128.jsonl", "sha256": digit * 64, "samples": 128,
                   "tokens": tokens, "response_tokens": tokens // 4}
            for name, digit, tokens in (("honesty", "1", 5321), ("task", "2", 9876))
        },
        "summary": {
            "target_matrices": len(names), "selected_matrices": len(records),
            "restored_neurons": 512 * len(records),
            "restored_parameters": 512 * 1024 * len(records),
            "target_parameters": 1024 * 1024 * len(names), "mean_half_overlap": 0.81,
            "selected_overlap": 0.78, "half_overlap_by_chance": 0.5,
            "objective_none": sum(r["objective_none"] for r in records),
            "objective": sum(r["objective"] for r in records), "largest_damping": 0.01,
            "largest_condition": max(r["condition"] for r in records), "damping_raised": [],
            "seconds": 236.0,
        },
        "warnings": [],
        "matrices": records,
        "perturbation": perturbation,
        "half_overlap": {},
        "scores": {
            name: {
                data_set: [scale * wave(i, 0.3, 1, 3) * q for q in (0.02, 0.2, 1.0, 5.0, 40.0)]
                for data_set, scale in (("honesty", 3e-7), ("task", 1e-7))
            }
            for i, name in enumerate(names)
        },
        "seconds": {"check the checkpoints": 1.2, "read the data": 0.8, "score honesty": 61.0,
                    "score task": 70.5, "select": 3.1, "curvature of honesty": 48.0,
                    "compensate, merge and write": 51.4},
        "versions": {"hcnr": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    }  # fmt: skip
    return report | changes


EDGES = [10.0**place for place in (i + 0.5 for i in range(-8, 8))]
CENTRES = [10.0**place for place in range(-8, 9)]


def invented_matrix(index, kind, mu, size):
    """`two_sided` of a matrix whose change is bell-shaped along the decades of g a."""
    middle, width = wave(index, 1.1, -1.5, 0.5), wave(index, 0.6, 0.8, 1.4)
    bell = [math.exp(-(((place - middle) / width) ** 2)) for place in range(-8, 9)]
    bell = [value if value > 1e-9 else 0.0 for value in bell]
    near = wave(index, 0.9, -0.6, 0.6)
    count = [size * math.exp(-((place - near) ** 2) / 4) for place in range(-8, 9)]
    count = [round(n * size / sum(count)) for n in count]
    filters = [mu * x / (1 + mu * x) for x in CENTRES]
    kept = [f**2 if "spectral" in kind else 1.0 for f in filters]
    if "natural" in kind:
        steps = (0.4 * (1 - f) * wave(i + index, 1.7, 0, 2) for i, f in enumerate(filters))
        kept = [k + step for k, step in zip(kept, steps, strict=True)]
    restored = sum(n * (1 - f) for n, f in zip(count, filters, strict=True))
    spectral = kind == "spectral"
    energy = [value / sum(bell) for value in bell]
    return {
        "task_weight": mu, "damping": [0.01, 0.01],
        "condition": [10 ** wave(index, 0.7, 2.0, 4.9), 10 ** wave(index, 1.2, 2.5, 5.3)],
        "routes": ["dense", "tokens" if index % 2 else "dense"],
        "restored_directions": restored if spectral else None,
        "restored_share": restored / size if spectral else None,
        "honesty_left": sum(e * k for e, k in zip(energy, kept, strict=True)),
        "task_lost": wave(index, 0.8, 0.004, 0.06),
        "spectrum": {"edges": EDGES, "directions": count, "energy": energy,
                     "kept": [k if e else 0.0 for k, e in zip(kept, energy, strict=True)]},
    }  # fmt: skip


def invented_two_sided(kind="spectral", blocks=8, *, searched=True, **changes):
    """A report of a kind that repairs whole matrices."""
    mu, size = 3.16228, 1024 * 1024
    report = invented_report(blocks)
    for index, record in enumerate(report["matrices"]):
        record.update(
            restored=1024, parameters=size, damping=None, condition=None, dead=None,
            rank_deficient=None, objective_none=None, objective=None,
            two_sided=invented_matrix(index, kind, mu, size),
        )  # fmt: skip
    count = len(report["matrices"])
    restored = [r["two_sided"]["restored_directions"] for r in report["matrices"]]
    total = sum(restored) if kind == "spectral" else None
    report["config"].update(
        compensation=kind, task_weight=mu, max_task_drop_percent=2.0, step_size=0.3
    )
    report["summary"].update(
        restored_neurons=1024 * count, restored_parameters=size * count, objective_none=None,
        objective=None, restored_directions=total,
        restored_share=None if total is None else total / (size * count),
    )  # fmt: skip
    tried = [(1.0, 95.2), (10.0, 99.4), (3.16228, 98.3), (1.77828, 97.0), (2.37137, 97.7)]
    losses = [2.412, 1.873, 1.541, 1.402]
    steps = [
        {"step": place + 1, "honesty_loss": loss, "length": 4.87, "share": 0.3}
        for place, loss in enumerate(losses[:-1])
    ]
    natural = "natural" in kind
    report["two_sided"] = {
        "kind": kind, "task_weight": mu, "max_task_drop_percent": 2.0,
        "search": [{"task_weight": w, "retention": r, "kept": r >= 98} for w, r in tried]
        if searched else [],
        "steps": steps if natural else [], "honesty_loss": losses[-1] if natural else None,
        "passes": 5 if natural else 2, "groups": 1, "held_back": 64 if searched else 0,
    }  # fmt: skip
    return report | changes


def one_set(f1, unknown, known, right, n=4000):
    half = n // 2
    spread = {"f1": 1.6, "refusal_delta": 2.2, "accuracy_answerable": 1.9,
              "refusal_rate_unanswerable": 1.4, "refusal_rate_answerable": 1.7}  # fmt: skip
    entry = {
        "detector": "unknownbench_keywords", "n": n, "tp": round(half * unknown / 100),
        "f1": f1, "precision": 70.0, "recall": unknown, "refusal_rate_unanswerable": unknown,
        "refusal_rate_answerable": known, "refusal_delta": unknown - known,
        "accuracy_answerable": right, "empty": 3,
    }  # fmt: skip
    entry["ci95"] = {key: [entry[key] - by, entry[key] + by] for key, by in spread.items()}
    return entry


def one_model(f1s, delta, task):
    names = ("falseqa", "nec", "refunq", "kuq", "selfaware")
    known = 30.0
    sets = {
        name: one_set(f1, known + delta, known, 35.0) for name, f1 in zip(names, f1s, strict=True)
    }
    mean = sum(f1s) / len(f1s)
    return {
        "sets": sets,
        "macro": {"f1": mean, "refusal_rate_unanswerable": known + delta,
                  "refusal_rate_answerable": known, "refusal_delta": delta,
                  "ci95": {"f1": [mean - 0.8, mean + 0.8],
                           "refusal_delta": [delta - 1.1, delta + 1.1]}},
        "tasks": {"hotpotqa": {"n": 1441, "accuracy": task, "empty": 1,
                               "ci95": {"accuracy": [task - 2.3, task + 2.4]}}},
        "tasks_macro": {"sets": 1, "accuracy": task,
                        "ci95": {"accuracy": [task - 2.3, task + 2.4]}},
    }  # fmt: skip


def interpolation():
    return [
        {
            "coefficient": c / 10,
            "refusal_delta": 12 + 3.2 * c,
            "honesty_f1": 52 + 2.2 * c,
            "task_accuracy": 30.65 - 0.03 * c * c,
        }
        for c in range(11)
    ]


def invented_metrics():
    """Published figures of the paper, with invented intervals."""
    tuned = one_model((56.51, 35.46, 32.43, 68.50, 67.01), 12.2, 30.65)
    base = one_model((70.1, 73.0, 74.2, 83.3, 70.0), 45.0, 27.4)
    return {
        "model": "restored", **one_model((68.30, 71.90, 71.70, 82.90, 69.40), 42.64, 30.30),
        "models": {"honest-8b-hotpotqa": tuned, "honest-8b": base},
        "differences": {"honest-8b-hotpotqa": {
            "macro": {"f1": {"value": 20.9, "ci95": [19.7, 22.0]},
                      "refusal_delta": {"value": 30.44, "ci95": [28.2, 32.6]}},
            "tasks_macro": {"accuracy": {"value": -0.35, "ci95": [-1.6, 0.9]}}}},
        "refuse_all": {"macro": {"f1": 63.1, "refusal_rate_unanswerable": 100.0,
                                 "refusal_rate_answerable": 100.0, "refusal_delta": 0.0},
                       "tasks_macro": {"accuracy": 0.0}},
        "interpolation": [
            point | {"chosen": point["coefficient"] == 0.3} for point in interpolation()
        ],
        "recommendation": {
            "word": "use", "reason": "written by the evaluation", "max_accuracy_drop": 2.0,
            "gain": {"value": 30.44, "ci95": [28.2, 32.6]}, "task_drop": 0.35,
            "interpolation": {"coefficient": 0.3, "gain": {"value": 9.4, "ci95": [7.5, 11.0]},
                              "lead": {"value": 21.04, "ci95": [18.9, 23.2]}},
        },
        "data": {name: {"questions": 4000, "sha256": "3" * 64, "source": f"/data/{name}.json"}
                 for name in ("falseqa", "nec", "refunq", "kuq", "selfaware")},
        "fingerprints": {"honest-8b-hotpotqa": "cccc3333dddd4444", "honest-8b": "aaaa1111bbbb2222"},
        "notes": ["Greedy decoding, at most 64 new tokens."],
    }  # fmt: skip


def invented_sweep():
    candidates = []
    for i, kind in enumerate(("none", "sum", "joint", "balanced")):
        for j, inside in enumerate((0.3, 0.5, 0.7)):
            for k, across in enumerate((0.2, 0.4, 0.6)):
                strength = 0.2 + 0.18 * j + 0.2 * k
                task = (
                    30.6
                    - (6 if kind == "joint" else 3) * strength**2
                    + wave(i + j + k, 2, -0.2, 0.2)
                )
                f1 = 53 + (12 + 5 * i) * strength + wave(i * 3 + j, 1, -1, 1)
                candidates.append({
                    "settings": {"compensation": kind, "in_weight_ratio": inside,
                                 "cross_weight_ratio": across},
                    "honesty_f1": f1, "refusal_delta": f1 - 35, "task_accuracy": task,
                    "neurons": 1000, "seconds": 4.2, "pareto": False, "recommended": False,
                })  # fmt: skip
    for one in candidates:
        one["pareto"] = not any(
            two["refusal_delta"] > one["refusal_delta"]
            and two["task_accuracy"] > one["task_accuracy"]
            for two in candidates
        )
    kept = (c for c in candidates if c["task_accuracy"] > 28.65)
    best = max(kept, key=lambda c: c["refusal_delta"])
    best["recommended"] = True
    return {
        "candidates": candidates,
        "interpolation": interpolation(),
        "tuned": {"honesty_f1": 52.0, "refusal_delta": 12.0, "task_accuracy": 30.65},
        "base": {"honesty_f1": 74.1, "refusal_delta": 45.0, "task_accuracy": 27.4},
        "ablation": [
            {"name": name, "honesty_f1": f1, "refusal_delta": delta, "task_accuracy": task}
            for name, f1, delta, task in (("full", 72.84, 42.64, 30.30),
                                          ("random neurons", 65.44, 36.31, 29.60),
                                          ("no task term", 70.43, 33.24, 28.30),
                                          ("no compensation", 65.96, 33.09, 30.37))
        ],
        "cost": {"ratio": 1.18},
        "recommended": {"word": "use", "settings": best["settings"],
                        "reason": "the best refusal delta of those that lose 2 points at most"},
        "max_accuracy_drop": 2.0,
    }  # fmt: skip


def invented_probe(blocks=32):
    def auroc(block, top):
        value = 0.5 + (top - 0.5) * (1 - math.exp(-block / (blocks / 4)))
        return {"auroc": value, "low": value - 0.03, "high": min(value + 0.03, 1.0)}

    return {
        "verdict": "holds", "sentence": "The preservation assumption holds.",
        "blocks": [
            {"block": b, "base": auroc(b, 0.95), "transfer": auroc(b, 0.9), "tuned": auroc(b, 0.94),
             "cosine": 0.9 - 0.2 * b / blocks}
            for b in range(blocks)
        ],
    }  # fmt: skip


def write_run(directory, report=None, metrics=None, sweep=None, probe=None):
    (directory / "eval").mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("hcnr_report.json", report or invented_report()),
        ("eval/metrics.json", metrics), ("sweep.json", sweep), ("probe.json", probe),
    ):  # fmt: skip
        if content is not None:
            (directory / name).write_text(json.dumps(content))
    return directory


@pytest.fixture
def invented():
    """Makers of the parts of a run, to be changed by a test."""
    return SimpleNamespace(
        report=invented_report,
        two_sided=invented_two_sided,
        metrics=invented_metrics,
        sweep=invented_sweep,
        probe=invented_probe,
    )


@pytest.fixture
def make_run(tmp_path):
    """Write the files of a run below a fresh directory, and return it."""
    return lambda **parts: write_run(tmp_path / "restored", **parts)


@pytest.fixture
def full_run(make_run):
    """A run with everything that a report can show."""
    return make_run(metrics=invented_metrics(), sweep=invented_sweep(), probe=invented_probe())

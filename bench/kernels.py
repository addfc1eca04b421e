"""Section "kernels" of `make gpu`: every family of operators at the shapes of Llama-3.1-8B."""

import sys

from bench import fisher, gram, inverse, merge, perturbation
from bench.accuracy import accuracy
from bench.cases import Record, judged, measure
from bench.timing import Ceilings, measure_ceilings
from bench.worker import started


def described(ceilings: Ceilings) -> Record:
    return {
        "title": "ceilings",
        "shape": f"copy {ceilings.copy_bytes_per_second / 1e12:.2f} TB/s, "
        f"product bf16 {ceilings.bf16_flops_per_second / 1e12:.0f}, "
        f"fp32 {ceilings.fp32_flops_per_second / 1e12:.0f} TFLOP/s",
        "ceilings": ceilings._asdict(),
    }


def determinism(records: list[Record]) -> Record:
    """Every case was run twice from the same state when it was verified."""
    found = [record["deterministic"] for record in records if "deterministic" in record]
    return {
        "title": "determinism",
        "shape": f"{len(found)} cases, two runs each",
        "goal": judged("share of cases with equal bits", sum(found) / len(found), 1.0, 1.0),
    }


def main() -> int:
    settings, record = started("kernels")
    ceilings = measure_ceilings(settings.device, small=settings.small)
    record(described(ceilings))
    done: list[Record] = []
    for family in (fisher, gram, perturbation, merge, inverse):
        mine: list[Record] = []
        for name, build in family.CASES.items():
            mine += record.attempt(
                f"{family.__name__.removeprefix('bench.')} {name}",
                lambda build=build: [
                    measure(
                        build(settings.device, settings.small),
                        ceilings,
                        settings.device,
                        quick=settings.quick,
                    )
                ],
            )
        if family is gram:
            record.attempt("gram_, crossover", lambda mine=mine: [gram.crossover(mine)])
        done += mine
    record.attempt("accuracy", lambda: accuracy(settings.device, small=settings.small))
    record.attempt("determinism", lambda: [determinism(done)])
    return int(record.failures > 0)


if __name__ == "__main__":
    sys.exit(main())

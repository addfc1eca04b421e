"""Sections of `make gpu`: a family of operators at the shapes of Llama-3.1-8B, or accuracy."""

import sys
from functools import partial
from types import ModuleType

from bench import compensation, fisher, gram, inverse, merge, perturbation
from bench.accuracy import accuracy
from bench.cases import Record, measure
from bench.timing import Ceilings, measure_ceilings
from bench.worker import Settings, started

FAMILIES: dict[str, ModuleType] = {
    "inverse": inverse,
    "compensation": compensation,
    "gram": gram,
    "perturbation": perturbation,
    "merge": merge,
    "fisher": fisher,
}


def described(ceilings: Ceilings) -> Record:
    return {
        "title": "ceilings",
        "shape": f"copy {ceilings.copy_bytes_per_second / 1e12:.2f} TB/s, "
        f"product bf16 {ceilings.bf16_flops_per_second / 1e12:.0f}, "
        f"fp32 {ceilings.fp32_flops_per_second / 1e12:.0f} TFLOP/s",
        "ceilings": ceilings._asdict(),
    }


def measured(family: ModuleType, name: str, ceilings: Ceilings, settings: Settings) -> list[Record]:
    case = family.CASES[name](settings.device, settings.small)
    return [measure(case, ceilings, settings.device, quick=settings.quick)]


def main() -> int:
    settings, record = started("kernels")
    section = record.section
    if section == "accuracy":
        record.attempt("accuracy", lambda: accuracy(settings.device, small=settings.small))
        return int(record.failures > 0)
    machine: list[Ceilings] = []

    def ceilings() -> list[Record]:
        machine.append(measure_ceilings(settings.device, small=settings.small))
        return [described(machine[0])]

    record.attempt("ceilings", ceilings, always=True)
    if machine:
        for name in FAMILIES[section].CASES:
            record.attempt(name, partial(measured, FAMILIES[section], name, machine[0], settings))
    return int(record.failures > 0)


if __name__ == "__main__":
    sys.exit(main())

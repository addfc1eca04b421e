"""What this installation can do: operators, backends, devices, detectors, plugins."""

from collections.abc import Callable

import torch

from hcnr import plugins
from hcnr.data.files import EXTENSIONS
from hcnr.detectors.built_in import BUILT_IN, spelled
from hcnr.errors import HcnrError
from hcnr.kinds import KINDS, repair_kind
from hcnr.versions import LIBRARIES, versions
from hcnr_kernels import native, operator_table


def operators() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: an operator, then its status on each backend or why it is not available."""
    table: dict[str, dict[str, str]] = {}
    for operator, backend, status in operator_table():
        table.setdefault(operator, {})[backend] = status
    backends = list(dict.fromkeys(backend for row in table.values() for backend in row))
    rows = [[name, *(row.get(b, "-") for b in backends)] for name, row in table.items()]
    return ["operator", *backends], rows


def packages() -> list[tuple[str, str]]:
    """Rows (package, version or `not installed`)."""
    known = versions()
    return [(name, known.get(name, "not installed")) for name in ("hcnr", "python", *LIBRARIES)]


def extension() -> list[tuple[str, str]]:
    """Rows (what, state) of the compiled extension: what it was built for, what it finds here."""
    module, reason = native.native()
    if module is None:
        return [("extension", f"not available: {reason}")]
    built = module.build_info()
    chips = ", ".join(f"{number // 100}.{number // 10 % 10}" for number in built["architectures"])
    return [
        ("built with", built["compilers"]),
        ("on the CPU", built["host"]),
        ("built for CUDA", chips or "no"),
        ("CUDA here", native.cuda_trouble() or "available"),
    ]


def devices() -> list[tuple[str, str]]:
    """Rows (device, description) of what torch can compute on."""
    rows = [
        ("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = "torch is a CPU build" if built is None else f"built for {built}, no GPU is seen"
        return [*rows, ("cuda", f"not available: {reason}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append(
            (
                f"cuda:{index}",
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
                f"sm_{properties.major}{properties.minor}",
            )
        )
    return rows


def detectors() -> list[tuple[str, str]]:
    """Rows (name as it is typed, what it needs) of the refusal detectors that come with hcnr."""
    needs = ("a sentence encoder" if kind.open is None else "-" for kind in BUILT_IN.values())
    return list(zip(spelled(), needs, strict=True))


def installed_plugins() -> list[tuple[str, str, str, str]]:
    """Rows (group, name, package, `available` or why not) of what other packages register.

    Each is imported, as a run that names it would.
    """
    return [
        (plugin.group, plugin.name, plugin.package, _state(plugin))
        for group in plugins.GROUPS
        for plugin in plugins.registered(group)
    ]


def _state(plugin: plugins.Plugin) -> str:
    own, load = _TAKEN[plugin.group], _LOADERS[plugin.group]
    if plugin.name in own:
        return "not used: hcnr has its own of that name"
    if plugin.group == "hcnr.readers" and plugin.name != plugin.name.lower():
        return "not used: extensions of files are compared in lower case"
    try:
        load(plugin.name)
    except HcnrError as error:
        return f"not available: {' '.join(str(error).split())}"
    return "available"


_TAKEN: dict[plugins.Group, set[str]] = {
    "hcnr.detectors": {*BUILT_IN},
    "hcnr.readers": {extension.removeprefix(".") for extension in EXTENSIONS},
    "hcnr.repairs": {*KINDS},
}
_LOADERS: dict[plugins.Group, Callable[[str], object]] = {
    "hcnr.detectors": lambda name: plugins.load("hcnr.detectors", name),
    "hcnr.readers": lambda name: plugins.load("hcnr.readers", name),
    "hcnr.repairs": repair_kind,
}

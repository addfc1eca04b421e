"""`hcnr info`: what this installation can do."""

from hcnr.commands.arguments import examples
from hcnr.output import print_json, say, shown

EPILOG = examples("hcnr info")


def info() -> None:
    """Show every operator and backend, available or why not, versions, devices, plugins."""
    from hcnr.info import detectors, devices, extension, installed_plugins, operators, packages
    from hcnr.plugins import GROUPS
    from hcnr.report.terminal import print_table

    console = shown()
    heads, rows = operators()
    tables = {
        "Operators": (heads, rows),
        "Compiled extension": (("what", "state"), extension()),
        "Versions": (("package", "version"), packages()),
        "Devices": (("device", "what"), devices()),
        "Refusal detectors": (("detector", "needs"), detectors()),
        "Plugins": (("group", "name", "package", "state"), installed_plugins()),
    }
    for title, (names, cells) in tables.items():
        if cells:
            print_table(title, names, cells, console)
        else:
            say(console, f"{title}: none, in {', '.join(GROUPS)}")
    print_json(
        {
            title.lower(): [dict(zip(names, row, strict=True)) for row in cells]
            for title, (names, cells) in tables.items()
        }
    )

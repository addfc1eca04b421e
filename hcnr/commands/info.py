"""`hcnr info`: what this installation can do."""

from hcnr.commands.arguments import examples
from hcnr.output import print_json, shown

EPILOG = examples("hcnr info")


def info() -> None:
    """Show every operator and backend, available or why not, with versions and devices."""
    from hcnr.info import devices, extension, operators, packages
    from hcnr.report.terminal import print_table

    console = shown()
    heads, rows = operators()
    tables = {
        "Operators": (heads, rows),
        "Compiled extension": (("what", "state"), extension()),
        "Versions": (("package", "version"), packages()),
        "Devices": (("device", "what"), devices()),
    }
    for title, (names, cells) in tables.items():
        print_table(title, names, cells, console)
    print_json(
        {
            title.lower(): [dict(zip(names, row, strict=True)) for row in cells]
            for title, (names, cells) in tables.items()
        }
    )

"""How charts are drawn: as SVG into the page, as PNG into files."""

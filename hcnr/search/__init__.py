"""Many configurations from one measurement: the sweep, its grid, its table."""

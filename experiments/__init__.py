"""What was tried with hcnr: in the repository, tested, not in the wheel."""

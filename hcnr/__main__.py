"""`python -m hcnr`."""

from hcnr.cli import main

if __name__ == "__main__":
    main()

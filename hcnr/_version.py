"""The stated version: a build replaces it by that of git's tags, where there are any.

It is that of the last tag or of the next one. `setup.py` reads it without importing anything.
"""

__version__ = "0.1.0"

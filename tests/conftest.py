"""Settings of the whole suite."""

import os

from hypothesis import settings

# A run of continuous integration repeats exactly; a developer's run goes on looking.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

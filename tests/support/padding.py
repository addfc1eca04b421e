"""Measuring with padding on either side: hcnr pads on the right, models may be fed either way."""

import contextlib
import functools
from typing import Literal
from unittest import mock

from hcnr.curvature import passes
from hcnr.data.batches import collate


def padded(side: Literal["left", "right"]) -> contextlib.AbstractContextManager[object]:
    """In which every measurement's batches are padded on the left or on the right."""
    return mock.patch.object(passes, "collate", functools.partial(collate, padding_side=side))

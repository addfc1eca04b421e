"""A pytest plugin, `-p torchvision_fakes`: torchvision can be imported beside a torch for CPUs.

The registry's torchvision is built for CUDA: its operators do not load there, and naming fakes for
them then fails. Avalanche imports it and uses none of them in what is compared, so the fakes are
left out. Given by -p, because transformers, which the conftest imports, imports torchvision too.
"""

from typing import Any

import torch

_register: Any = torch.library.register_fake


def _without_torchvision(op: Any, *args: Any, **options: Any) -> Any:
    if str(op).startswith("torchvision::"):
        return lambda function: function
    return _register(op, *args, **options)


torch.library.register_fake = _without_torchvision

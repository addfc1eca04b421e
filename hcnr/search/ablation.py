"""The paper's ablation: what the choice of neurons and the compensation each contribute."""

from hcnr.config import RestoreConfig


def ablation(config: RestoreConfig) -> dict[str, RestoreConfig]:
    """Rows of the paper's table, by name: one thing taken away at a time.

    Args:
        config: the full method; a compensation of `none`, or one without a choice of neurons, is
            replaced by `sum`, the paper's, since there would be nothing to take away.
    """
    compensates = config.kind.scope == "neurons" and config.kind.apply is not None
    kind = config.compensation if compensates else "sum"
    full = config.replace(priority="kl", compensation=kind)
    return {
        "full": full,
        "random neurons": full.replace(priority="random"),
        "no task term": full.replace(priority="honesty"),
        "no compensation": full.replace(compensation="none"),
        "random neurons, no compensation": full.replace(priority="random", compensation="none"),
    }

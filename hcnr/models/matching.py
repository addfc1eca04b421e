"""Whether base and tuned belong together, before anything is computed."""

from dataclasses import replace

from hcnr.checkpoint import check_pair
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import slice_of
from hcnr.models.parents import about_parents
from hcnr.models.source import Source


def check_match(base: Source, tuned: Source, config: RestoreConfig) -> tuple[list[str], list[str]]:
    """Check that the two belong together by names, shapes and dtypes; reads no weights from disk.

    Returns:
        The target matrices in the model's order, and messages about harmless differences.

    Raises:
        CheckpointError: architectures, names, shapes or dtypes do not fit; each is named.
        ModelError: no matrix matches the configuration's targets.
    """
    kinds = [source.settings.get("model_type") for source in (base, tuned)]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"base and tuned are different architectures: {kinds[0]} ({base}) and {kinds[1]} "
            f"({tuned}); name the checkpoint that the fine-tuning started from"
        )
    if isinstance(base, DirectorySource) and isinstance(tuned, DirectorySource):
        base.share_structure(tuned)
    layers = tuned.matrices(config.targets, config.ignore)
    reach = tuned.reach
    messages = [] if reach is None or config.interpolates else [reach.sentence]
    if isinstance(base, DirectorySource) and isinstance(tuned, DirectorySource):
        weights = list(dict.fromkeys(slice_of(layer, name)[0] for name, layer in layers.items()))
        ours, theirs = (replace(s.checkpoint, tensors=s.placed.infos) for s in (base, tuned))
        messages += check_pair(ours, theirs, weights)
        messages += about_parents(base.path, tuned.path)
        return list(layers), messages
    others = base.matrices(config.targets, config.ignore)
    for name, layer in layers.items():
        if name not in others:
            raise CheckpointError(f"{name} is a matrix of tuned ({tuned}) but not of base ({base})")
        ours, theirs = list(others[name].weight.shape), list(layer.weight.shape)
        if ours != theirs:
            raise CheckpointError(
                f"{name} is {ours} in base ({base}) and {theirs} in tuned ({tuned}); the two must "
                "be of one architecture"
            )
    sizes = [source.settings.get("vocab_size") for source in (base, tuned)]
    if sizes[0] != sizes[1]:
        messages.append(
            f"The vocabulary has {sizes[0]} entries in base and {sizes[1]} in tuned; embeddings "
            "are no targets, and the output keeps tuned's."
        )
    return list(layers), messages

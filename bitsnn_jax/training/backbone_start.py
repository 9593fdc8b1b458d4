"""Start a detector from a trained classifier, whose stages become its backbone."""

from flax.traverse_util import unflatten_dict

from bitsnn_jax.config import Config
from bitsnn_jax.models import BACKBONES
from bitsnn_jax.runs.checkpoint import Run
from bitsnn_jax.training.fitting import leaves, thetas

BACKBONE, HEAD = "backbone", "head"  # names of modules: of detectors, of classifiers


def is_backbone(run: Run, config: Config) -> bool:
    """Tell whether a run is a classifier, and the other to come a detector.

    Raises:
      ValueError: they are, and the classifier is not of the kind that it needs.
    """
    backbone, found = BACKBONES.get(config.model.name), run.config.model.name
    if backbone is None or found in BACKBONES:
        return False
    if found != backbone:
        raise ValueError(
            f"start_from: expected a run of {config.model.name}, or of {backbone}, "
            f"whose stem and stages it has as its backbone; got one of {found}"
        )
    return True


def with_backbone(classifier: dict, detector: dict) -> tuple[dict, tuple[str, ...]]:
    """Put a classifier without its head into a detector.

    Args:
      classifier: its variables.
      detector: variables, random. Thetas stay, unless the classifier has none, so that
        all are to be calibrated.

    Returns:
      The variables, and the modules that stay random.
    """
    random = sorted(detector["params"].keys() - {BACKBONE})
    missing = set() if thetas(classifier) else thetas(detector)
    kept = {
        path: x
        for path, x in leaves(detector).items()
        if path.split("/")[1] in random and path not in missing
    }
    for path, x in leaves(classifier).items():
        collection, module, *rest = path.split("/")
        if module != HEAD:
            kept["/".join((collection, BACKBONE, module, *rest))] = x
    return unflatten_dict(kept, sep="/"), tuple(random)

"""Names of the timm models that detectors can be built on, without building them."""

from difflib import get_close_matches
from fnmatch import fnmatchcase

from libradet.models.plain_vit import MODULES, uses_simple_pyramid

# Modules of timm whose models all have features at strides 4 to 32, according to their feature info, and accept images
# of any padded size. Those of other modules have other strides, or windows and embeddings of one image size.
FAMILIES = frozenset(
    [
        "byobnet",
        "convnext",
        "cpubone",
        "cspnet",
        "cspnext",
        "davit",
        "densenet",
        "dla",
        "dpn",
        "edgenext",
        "efficientnet",
        "efficientvit_mit",
        "fasternet",
        "fastvit",
        "focalnet",
        "ghostnet",
        "hardcorenas",
        "hgnet",
        "hieradet_sam2",
        "hrnet",
        "iformer",
        "inception_next",
        "lcnetv2",
        "lowformer",
        "mambaout",
        "metaformer",
        "mobilenetv3",
        "mobilenetv5",
        "mobilevit",
        "mvitv2",
        "nasnet",
        "nextvit",
        "nfnet",
        "pnasnet",
        "pvt_v2",
        "rdnet",
        "regnet",
        "repghost",
        "repvit",
        "res2net",
        "resnest",
        "resnet",
        "resnetv2",
        "rexnet",
        "selecsls",
        "senet",
        "sknet",
        "starnet",
        "swiftformer",
        "swin_transformer",
        "swin_transformer_v2",
        "swin_transformer_v2_cr",
        "tiny_vit",
        "tresnet",
        "twins",
        "vgg",
        "vovnet",
        "xception_aligned",
    ]
)

EXCEPTIONS = ("sedarknet21", "bat_resnext26ts", "mobilevitv2_*")
"""Names (with wildcards) of models of these modules that have other strides, or need other multiples than 32."""


def is_exception(name: str) -> bool:
    """Whether a model of these modules fits no detector."""
    return any(fnmatchcase(name, pattern) for pattern in EXCEPTIONS)


def fits_detectors(name: str) -> bool:
    """Whether detectors can be built on a model of timm, with or without the tag of its weights."""
    from libradet.utils.quick_timm import timm

    if timm.models.is_model_in_modules(name, MODULES):
        return uses_simple_pyramid(name)
    return not is_exception(name.split(".")[0]) and timm.models.is_model_in_modules(name, FAMILIES)


def list_backbones(pattern: str) -> list[str]:
    """Return the names that match a pattern such as ``convnext*`` and that detectors can be built on.

    If no name of a model matches, those of weights are compared, which have a tag: ``convnext*dinov3*``, ``*.mae``.
    """
    from libradet.utils.quick_timm import timm

    names = timm.list_models(pattern) or timm.list_models(pattern, pretrained=True)
    return [name for name in names if fits_detectors(name)]


def similar_backbones(name: str, count: int = 5) -> str:
    """Return the listed names that are most similar to another one, separated by commas; resnet50 if none is."""
    # All names are compared, and only similar ones built to know whether they fit.
    from libradet.utils.quick_timm import timm

    similar = get_close_matches(name.split(".")[0], timm.list_models(), n=50, cutoff=0.75)
    return ", ".join([other for other in similar if fits_detectors(other)][:count]) or "resnet50"

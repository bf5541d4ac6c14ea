"""Detectors trained on COCO that other projects publish: names, addresses, hashes, and AP as their origin states it.

Neither torch nor torchvision is imported until torchvision's own weights API is asked for an address or an AP.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from libradet.errors import UserError
from libradet.utils.text import summarize_list

BEST = "coco"
"""In place of a name: the published weights of highest AP of a model and backbone."""

BUILDER = "builder"
"""Key of metadata: torchvision's function that builds the detector, as some differ in settings alone."""

PLAIN_MODELS = {"balanced_faster_rcnn": "faster_rcnn"}
"""Plain detectors of balanced models that do not begin with ``libra_``."""


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of one detector.

    Attributes:
        name: the origin's name with ``_coco``; mmdetection's schedule of 12 epochs is left out.
        model: its architecture in the model zoo.
        backbone: timm's name.
        origin: project that trained and publishes it.
        license: the origin's, as an SPDX identifier.
        url: address of the file; empty if torchvision knows it.
        sha256: SHA-256 of the file, or its first eight digits; empty if none is known.
        box_ap, mask_ap: percent on COCO val2017; None without such a number.
        epochs: of training on COCO train2017; None if the origin does not state them.
        megabytes: size of the file, 10^6 bytes; None if the origin does not state it.
        torchvision_weights: member of torchvision's weights API that has address, hash, size and AP.
    """

    name: str
    model: str
    backbone: str
    origin: str
    license: str
    url: str = ""
    sha256: str = ""
    box_ap: float | None = None
    mask_ap: float | None = None
    epochs: int | None = None
    megabytes: float | None = None
    torchvision_weights: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file in the cache: the last part of its address."""
        return self.url.rpartition("/")[2]


def _mmdetection(
    name: str, model: str, backbone: str, path: str, box_ap: float, mask_ap: float | None = None, epochs: int = 12
) -> PublishedWeights:
    """Return weights of mmdetection 2, whose file names end in the first eight digits of their SHA-256."""
    url = f"https://download.openmmlab.com/mmdetection/v2.0/{path}"
    sha256 = path.removesuffix(".pth").rpartition("-")[2]
    return PublishedWeights(
        f"{name}_coco", model, backbone, "mmdetection", "Apache-2.0", url, sha256, box_ap, mask_ap, epochs
    )


def _detectron2(
    folder: str, path: str, model: str, backbone: str, sha256: str, box_ap: float | None, mask_ap: float | None = None
) -> PublishedWeights:
    """Return weights of detectron2's model zoo, whose license is not that of its code."""
    url = f"https://dl.fbaipublicfiles.com/detectron2/{folder}/{path}"
    name = path.partition("/")[0]
    epochs = 37 if name.endswith("_3x") else 12
    return PublishedWeights(
        f"{name}_coco", model, backbone, "detectron2", "CC-BY-SA-3.0", url, sha256, box_ap, mask_ap, epochs
    )


def _torchvision(builder: str, weights: str, model: str, backbone: str = "resnet50") -> PublishedWeights:
    """Return weights that torchvision's function ``builder`` loads."""
    return PublishedWeights(
        f"{builder}_coco", model, backbone, "torchvision", "BSD-3-Clause", torchvision_weights=f"{weights}.COCO_V1"
    )


COCO_WEIGHTS: tuple[PublishedWeights, ...] = (
    _mmdetection(
        "libra_faster_rcnn_r50_fpn",
        "libra_faster_rcnn",
        "resnet50",
        "libra_rcnn/libra_faster_rcnn_r50_fpn_1x_coco/libra_faster_rcnn_r50_fpn_1x_coco_20200130-3afee3a9.pth",
        38.3,
    ),
    _mmdetection(
        "libra_faster_rcnn_r101_fpn",
        "libra_faster_rcnn",
        "resnet101",
        "libra_rcnn/libra_faster_rcnn_r101_fpn_1x_coco/libra_faster_rcnn_r101_fpn_1x_coco_20200203-8dba6a5a.pth",
        40.1,
    ),
    _mmdetection(
        "libra_faster_rcnn_x101_64x4d_fpn",
        "libra_faster_rcnn",
        "resnext101_64x4d",
        "libra_rcnn/libra_faster_rcnn_x101_64x4d_fpn_1x_coco/"
        "libra_faster_rcnn_x101_64x4d_fpn_1x_coco_20200315-3a7d0488.pth",
        42.7,
    ),
    _mmdetection(
        "libra_retinanet_r50_fpn",
        "libra_retinanet",
        "resnet50",
        "libra_rcnn/libra_retinanet_r50_fpn_1x_coco/libra_retinanet_r50_fpn_1x_coco_20200205-804d94ce.pth",
        37.6,
    ),
    _mmdetection(
        "faster_rcnn_r50_fpn",
        "faster_rcnn",
        "resnet50",
        "faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
        37.4,
    ),
    _mmdetection(
        "faster_rcnn_r50_fpn_3x",
        "faster_rcnn",
        "resnet50",
        "faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco/"
        "faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c.pth",
        40.3,
        epochs=36,
    ),
    _mmdetection(
        "faster_rcnn_r101_fpn",
        "faster_rcnn",
        "resnet101",
        "faster_rcnn/faster_rcnn_r101_fpn_1x_coco/faster_rcnn_r101_fpn_1x_coco_20200130-f513f705.pth",
        39.4,
    ),
    _mmdetection(
        "faster_rcnn_x101_64x4d_fpn_3x",
        "faster_rcnn",
        "resnext101_64x4d",
        "faster_rcnn/faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco/"
        "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco_20210524_124528-26c63de6.pth",
        43.1,
        epochs=36,
    ),
    _mmdetection(
        "retinanet_r50_fpn",
        "retinanet",
        "resnet50",
        "retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth",
        36.5,
    ),
    _mmdetection(
        "retinanet_r50_fpn_3x",
        "retinanet",
        "resnet50",
        "retinanet/retinanet_r50_fpn_mstrain_3x_coco/retinanet_r50_fpn_mstrain_3x_coco_20210718_220633-88476508.pth",
        39.5,
        epochs=36,
    ),
    _mmdetection(
        "mask_rcnn_r50_fpn",
        "mask_rcnn",
        "resnet50",
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco/mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth",
        38.2,
        34.7,
    ),
    _mmdetection(
        "mask_rcnn_r50_fpn_3x",
        "mask_rcnn",
        "resnet50",
        "mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/"
        "mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth",
        40.9,
        37.1,
        epochs=36,
    ),
    _mmdetection(
        "cascade_rcnn_r50_fpn",
        "cascade_rcnn",
        "resnet50",
        "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco/cascade_rcnn_r50_fpn_1x_coco_20200316-3dc56deb.pth",
        40.3,
    ),
    _mmdetection(
        "cascade_rcnn_r101_fpn_20e",
        "cascade_rcnn",
        "resnet101",
        "cascade_rcnn/cascade_rcnn_r101_fpn_20e_coco/"
        "cascade_rcnn_r101_fpn_20e_coco_bbox_mAP-0.425_20200504_231812-5057dcc5.pth",
        42.5,
        epochs=20,
    ),
    _detectron2(
        "COCO-Detection",
        "faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
        "faster_rcnn",
        "resnet50",
        "3c25caca37baabbff3e22cc9eb0923db165a0c18b867871a3bf3570bac9b7ef0",
        40.2,
    ),
    _detectron2(
        "COCO-Detection",
        "faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
        "faster_rcnn",
        "resnet101",
        "",
        42.0,
    ),
    _detectron2(
        "COCO-Detection", "retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl", "retinanet", "resnet50", "", 38.7
    ),
    _detectron2(
        "COCO-InstanceSegmentation",
        "mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
        "mask_rcnn",
        "resnet50",
        "9a737e290372f1f70994ebcbd89d8004dbb3ae30a605fd915a190fa4a782dd66",
        41.0,
        37.2,
    ),
    _detectron2("COCO-Detection", "rpn_R_50_FPN_1x/137258492/model_final_02ce48.pkl", "rpn", "resnet50", "", None),
    _torchvision("fasterrcnn_resnet50_fpn", "FasterRCNN_ResNet50_FPN_Weights", "faster_rcnn"),
    _torchvision("fasterrcnn_resnet50_fpn_v2", "FasterRCNN_ResNet50_FPN_V2_Weights", "faster_rcnn"),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_fpn",
        "FasterRCNN_MobileNet_V3_Large_FPN_Weights",
        "faster_rcnn",
        "mobilenetv3_large_100",
    ),
    _torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "FasterRCNN_MobileNet_V3_Large_320_FPN_Weights",
        "faster_rcnn",
        "mobilenetv3_large_100",
    ),
    _torchvision("retinanet_resnet50_fpn", "RetinaNet_ResNet50_FPN_Weights", "retinanet"),
    _torchvision("retinanet_resnet50_fpn_v2", "RetinaNet_ResNet50_FPN_V2_Weights", "retinanet"),
    _torchvision("maskrcnn_resnet50_fpn", "MaskRCNN_ResNet50_FPN_Weights", "mask_rcnn"),
    _torchvision("maskrcnn_resnet50_fpn_v2", "MaskRCNN_ResNet50_FPN_V2_Weights", "mask_rcnn"),
)
"""All published weights that can be loaded by name."""


def by_name(weights: str | Path) -> PublishedWeights | None:
    """Return the published weights of that name; None if there are none, or if it is the path of a file."""
    published = next((entry for entry in COCO_WEIGHTS if entry.name == str(weights)), None)
    is_path = published is not None and Path(weights).exists() and not Path(weights).is_dir()
    return None if is_path else published


def require_weights(weights: str | Path) -> None:
    """Raise UserError if there is neither a path nor published weights of that name; called before slow imports."""
    try:
        if by_name(weights) is not None or Path(weights).exists():
            return
    except OSError:  # such as a name that is too long, which is reported when the file is read
        return
    name = str(weights)
    similar = get_close_matches(name, [entry.name for entry in COCO_WEIGHTS], n=3) if Path(name).name == name else []
    hint = f"; did you mean the published weights {' or '.join(similar)}?" if similar else ""
    raise UserError(f"{name}: no such file{hint}")


def with_torchvision_facts(weights: PublishedWeights) -> PublishedWeights:
    """Return weights with address, hash, size and AP from torchvision's weights API; those of others as they are."""
    if not weights.torchvision_weights:
        return weights
    from torchvision.models import get_weight

    entry = get_weight(weights.torchvision_weights)
    ap = entry.meta["_metrics"]["COCO-val2017"]
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", entry.url)
    return replace(
        weights,
        url=entry.url,
        sha256=digits[1] if digits else "",
        box_ap=ap["box_map"],
        mask_ap=ap.get("mask_map"),
        megabytes=entry.meta["_file_size"] * (1 << 20) / 1e6,
    )


def best_weights(model: str, backbone: str) -> PublishedWeights:
    """Return the published weights of highest box AP of a model of the zoo and a backbone.

    A balanced model without weights of its own starts from those of its plain detector.

    Raises:
        UserError: there are none; names the backbones for which there are some.
    """
    plain = PLAIN_MODELS.get(model, model.removeprefix("libra_"))
    for name in (model, plain):
        candidates = [with_torchvision_facts(w) for w in _of(name) if w.backbone == backbone]
        if candidates:
            return max(candidates, key=lambda weights: weights.box_ap or 0.0)
    backbones = sorted({weights.backbone for name in (model, plain) for weights in _of(name)})
    hint = f"with --backbone {summarize_list(backbones)} there are" if backbones else "choose another model"
    raise UserError(
        f"no weights trained on COCO are published for {model} on {backbone}: {hint}, or use --weights imagenet"
    )


def _of(model: str) -> Iterable[PublishedWeights]:
    return (weights for weights in COCO_WEIGHTS if weights.model == model)

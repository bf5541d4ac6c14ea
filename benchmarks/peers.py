"""mmdetection and detectron2, where they are installed; without them their turns are left out."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.scene import CLASSES, Scene
from benchmarks.sides import Side, our_model

MODULES = {"mmdetection": "mmdet", "detectron2": "detectron2"}
MMDET = {
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "libra_faster_rcnn": "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "libra_retinanet": "libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
}
DETECTRON2 = {
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
}


def missing(side: str, case: Case) -> str | None:
    """Why a side cannot take part, in a few words; None if it can."""
    if side in MODULES and find_spec(MODULES[side]) is None:
        return f"{side} is not installed"
    known = {"torchvision": ("faster_rcnn", "retinanet", "mask_rcnn"), "mmdetection": MMDET, "detectron2": DETECTRON2}
    return None if case.model in known.get(side, (case.model,)) else f"{side} has no {case.model}"


def set_up(case: Case, side: str, scene: Scene, weights: Path) -> Side:
    """The peer's detector with the shared weights."""
    return (_mmdetection if side == "mmdetection" else _detectron2)(case, scene, weights)


def _mmdetection(case: Case, scene: Scene, weights: Path) -> Side:
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    from libradet.interop.saving import to_foreign

    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / MMDET[case.model]).model
    for part in (config, config.backbone):
        part.pop("init_cfg", None)
    init_default_scope("mmdet")
    model = MODELS.build(config)
    _load(model, to_foreign(our_model(case, weights), "mmdet"))
    model.train(case.task == "train")
    samples, shape = [], case.size
    for boxes, labels in zip(scene.boxes, scene.labels, strict=True):
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=labels))
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        sample.set_metainfo({"img_id": 0, "ori_shape": shape, "img_shape": shape, "scale_factor": (1.0, 1.0)})
        samples.append(sample)
    if scene.masks is not None:
        from mmdet.structures.mask import BitmapMasks

        for sample, masks in zip(samples, scene.masks, strict=True):
            sample.gt_instances.masks = BitmapMasks(masks.numpy(), *shape)
    images = list(scene.images.flip(1))

    def call():
        data = model.data_preprocessor({"inputs": images, "data_samples": samples}, model.training)
        if not model.training:
            return model.predict(data["inputs"], data["data_samples"], rescale=False)
        return {"loss": model.parse_losses(model.loss(data["inputs"], data["data_samples"]))[0]}

    return Side(model, call)


def _detectron2(case: Case, scene: Scene, weights: Path) -> Side:
    from detectron2 import model_zoo
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances

    from libradet.interop import detectron2

    config = model_zoo.get_config(DETECTRON2[case.model])
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = CLASSES
    config.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(config)
    ours = our_model(case, weights)
    there = {here: theirs for theirs, here in detectron2.FAMILY.layout(None, ours.config).pairs}
    state = {f"{there[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": t for n, t in ours.state_dict().items()}
    _load(model, state)
    model.train(case.task == "train")
    inputs = []
    for i, image in enumerate(scene.images.flip(1)):
        found = Instances(case.size, gt_boxes=Boxes(scene.boxes[i]), gt_classes=scene.labels[i])
        if scene.masks is not None:
            found.gt_masks = BitMasks(scene.masks[i].bool())
        inputs.append({"image": image, "height": case.size[0], "width": case.size[1], "instances": found})
    return Side(model, lambda: model(inputs))


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    missing = [
        n for n in model.load_state_dict(state, strict=False).missing_keys if not n.endswith("num_batches_tracked")
    ]
    if missing:
        raise RuntimeError(f"the shared weights lack {', '.join(missing[:3])}, …")

"""Detectors of mmdetection and detectron2 with the shared weights, and RF-DETR nano, where these are installed."""

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import mmcv_operators
from benchmarks.cases import Case
from benchmarks.models import ModelUnderTest, build_libradet
from benchmarks.peers import MODULES, PEERS, is_installed
from benchmarks.synthetic_inputs import CLASSES, SyntheticInputs
from libradet.utils.text import summarize_list

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


def unavailable_reason(library: str, case: Case) -> str | None:
    """Return why a library cannot run the case; None if it can."""
    if library in MODULES and not is_installed(library):
        return f"{library} is not installed" + (" (python -m benchmarks.peers)" if library in PEERS else "")
    known = {"torchvision": ("faster_rcnn", "retinanet", "mask_rcnn"), "mmdetection": MMDET, "detectron2": DETECTRON2}
    return None if case.model in known.get(library, (case.model,)) else f"{library} has no {case.model}"


def prepare(case: Case, library: str, inputs: SyntheticInputs, weights: Path) -> ModelUnderTest:
    """Return the library's detector, with the shared weights if it can have them."""
    if library == "rf-detr":
        return _rf_detr(inputs)
    build = _mmdetection if library == "mmdetection" else _detectron2
    return build(case, inputs, weights)


def _rf_detr(inputs: SyntheticInputs) -> ModelUnderTest:
    """Return RF-DETR nano, optimized for inference; all of its detections are returned, as its weights are random."""
    from rfdetr import RFDETRNano

    torch.manual_seed(0)
    detector = RFDETRNano(pretrain_weights=None, device="cpu")
    detector.inference()
    image = inputs.images[0].float() / 255
    return ModelUnderTest(
        detector.model.model, lambda: detector.predict(image, threshold=0.0, include_source_image=False)
    )


def _mmdetection(case: Case, inputs: SyntheticInputs, weights: Path) -> ModelUnderTest:
    mmcv_operators.install()
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmengine.structures import InstanceData

    from libradet.interop.saving import to_foreign_state_dict

    config = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / MMDET[case.model]).model
    for part in (config, config.backbone):
        part.pop("init_cfg", None)
    init_default_scope("mmdet")
    model = MODELS.build(config)
    mmcv_operators.use_torchvision_roi_align(model)
    _load(model, to_foreign_state_dict(build_libradet(case, weights), "mmdet"))
    model.train(case.task == "train")
    samples, shape = [], case.size
    for boxes, labels in zip(inputs.boxes, inputs.labels, strict=True):
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=labels))
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
        sample.set_metainfo({"img_id": 0, "ori_shape": shape, "img_shape": shape, "scale_factor": (1.0, 1.0)})
        samples.append(sample)
    if inputs.masks is not None:
        from mmdet.structures.mask import BitmapMasks

        for sample, masks in zip(samples, inputs.masks, strict=True):
            sample.gt_instances.masks = BitmapMasks(masks.numpy(), *shape)
    images = list(inputs.images.flip(1))

    def call():
        data = model.data_preprocessor({"inputs": images, "data_samples": samples}, model.training)
        if not model.training:
            return model.predict(data["inputs"], data["data_samples"], rescale=False)
        return {"loss": model.parse_losses(model.loss(data["inputs"], data["data_samples"]))[0]}

    return ModelUnderTest(model, call)


def _detectron2(case: Case, inputs: SyntheticInputs, weights: Path) -> ModelUnderTest:
    from detectron2 import model_zoo
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances

    from libradet.interop import detectron2

    config = model_zoo.get_config(DETECTRON2[case.model])
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    config.MODEL.ROI_HEADS.NUM_CLASSES = config.MODEL.RETINANET.NUM_CLASSES = CLASSES
    config.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(config)
    ours = build_libradet(case, weights)
    their_names = {here: theirs for theirs, here in detectron2.FORMAT.layout(None, ours.config).key_map}
    state = {}
    for name, tensor in ours.state_dict().items():
        layer, _, kind = name.rpartition(".")
        state[f"{their_names[layer]}.{kind}"] = tensor
    _load(model, state)
    model.train(case.task == "train")
    batch = []
    for i, image in enumerate(inputs.images.flip(1)):
        instances = Instances(case.size, gt_boxes=Boxes(inputs.boxes[i]), gt_classes=inputs.labels[i])
        if inputs.masks is not None:
            instances.gt_masks = BitMasks(inputs.masks[i].bool())
        batch.append({"image": image, "height": case.size[0], "width": case.size[1], "instances": instances})
    return ModelUnderTest(model, lambda: model(batch))


def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    missing = model.load_state_dict(state, strict=False).missing_keys
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise RuntimeError(f"the shared weights lack {summarize_list(missing, 3)}")

"""The settings that mmdetection's trainers write beside the weights, as far as they change detections."""

from collections.abc import Mapping
from typing import Any

from libradet.errors import UserError
from libradet.interop.python_text import find, find_all, read
from libradet.models.config import AnchorConfig, DetectionConfig, DetectorConfig, ProposalConfig, RoIAlignConfig

Settings = Mapping[str, Any]
BoxStd = tuple[float, float, float, float]


def apply(config: DetectorConfig, meta: Settings) -> None:
    """Take over normalization, padding, strides, anchors, box coding, RoIAlign, thresholds.

    Raises:
        UserError: a setting that libradet has nothing like.
    """
    text = meta.get("cfg") or meta.get("config")
    settings = read(text) if isinstance(text, str) else {}
    model = settings.get("model")
    if not isinstance(model, dict):
        return
    _apply_image(config, settings, model)
    _apply_backbone(config, find(model, "backbone"))
    for neck in model["neck"] if isinstance(model.get("neck"), list) else [model.get("neck")]:
        _apply_neck(config, neck or {})
    _apply_anchor_heads(config, model)
    _apply_second_stage(config, model)
    _apply_train(config, model.get("train_cfg") or settings.get("train_cfg") or {})
    _apply_test(config, model.get("test_cfg") or settings.get("test_cfg") or {})


def _only(found: Settings, allowed: Settings) -> None:
    """Refuse values of ``found`` other than those ``allowed``; what is not there is as it should be."""
    for key, values in allowed.items():
        if found.get(key) is not None and found[key] not in values:
            raise UserError(f"it was made with {key}={found[key]!r}, which libradet does not offer")


def _apply_image(config: DetectorConfig, settings: Settings, model: Settings) -> None:
    image = config.image
    found = {**find(settings, "img_norm_cfg"), **find(model, "data_preprocessor")}
    if "mean" in found and "std" in found:
        image.mean, image.std = tuple(found["mean"]), tuple(found["std"])
        to_rgb = found.get("to_rgb", found.get("bgr_to_rgb", False))
        image.channels = "rgb" if to_rgb else "bgr"
    _only(found, {"pad_value": (0,)})
    pipeline = settings.get("test_pipeline") or []
    pads = [step["size_divisor"] for step in find_all(pipeline, "size_divisor")]
    image.divisor = int(found.get("pad_size_divisor", pads[0] if pads else image.divisor))
    for step in (*find_all(pipeline, "img_scale"), *find_all(pipeline, "scale")):
        scale = step.get("img_scale") or step["scale"]
        if isinstance(scale, list) and len(scale) == 2 and step.get("keep_ratio", True):
            image.size = (min(scale), max(scale))
            break


def _apply_backbone(config: DetectorConfig, found: Settings) -> None:
    _only(found, {"strides": ([1, 2, 2, 2],), "dilations": ([1, 1, 1, 1],), "out_indices": ([0, 1, 2, 3],)})
    config.backbone.stride_in_1x1 = found.get("style", "pytorch") == "caffe"
    config.backbone.freeze_at = max(int(found.get("frozen_stages", 1)) + 1, 0)
    config.backbone.frozen_norm = bool(found.get("norm_eval", True))
    norm = found.get("norm_cfg")
    if isinstance(norm, dict) and "eps" in norm:
        config.backbone.norm_eps = float(norm["eps"])


def _apply_neck(config: DetectorConfig, found: Settings) -> None:
    pyramid = config.pyramid
    if pyramid.balanced is not None:
        pyramid.balanced.level = int(found.get("refine_level", pyramid.balanced.level))
    if "in_channels" not in found or found.get("type") == "BFP":
        return
    _only(found, {"add_extra_convs": (False, True, "on_input", "on_output"), "end_level": (-1, 3)})
    _only(found.get("upsample_cfg") or {}, {"mode": ("nearest",)})
    if found.get("act_cfg") is not None:
        raise UserError("its pyramid has activations behind its convolutions, which libradet's has not")
    pyramid.extra_relu = bool(found.get("relu_before_extra_convs", False))
    pyramid.levels = int(found.get("num_outs", pyramid.levels))


def _apply_anchor_heads(config: DetectorConfig, model: Settings) -> None:
    for head, key in ((config.rpn, "rpn_head"), (config.dense, "bbox_head")):
        found = find(model, key)
        if head is None or not found:
            continue
        _apply_anchors(head.anchors, find(found, "anchor_generator") or found)
        coder = _coder(found)
        _only(coder, {"target_stds": ([1.0, 1.0, 1.0, 1.0],)})


def _apply_anchors(anchors: AnchorConfig, found: Settings) -> None:
    _only(found, {"scale_major": (True,), "base_sizes": (), "centers": ()})
    if str(found.get("type", "")).startswith("Legacy"):
        raise UserError(f"its anchors are made by {found['type']}, which libradet does not offer")
    if isinstance(octaves := found.get("scales_per_octave"), int):
        base = found.get("octave_base_scale", 4)
        anchors.scales = tuple(base * 2 ** (i / octaves) for i in range(octaves))
    if isinstance(scales := found.get("scales", found.get("anchor_scales")), list):
        anchors.scales = tuple(float(s) for s in scales)
    if isinstance(ratios := found.get("ratios", found.get("anchor_ratios")), list):
        anchors.ratios = tuple(float(r) for r in ratios)
    anchors.offset = float(found.get("center_offset", anchors.offset))


def _coder(head: Settings) -> Settings:
    """How a head's deltas are coded; before version 2, the head itself says so."""
    coder = find(head, "bbox_coder") or head
    kind = coder.get("type", "") if coder is not head else ""
    if kind not in ("", "DeltaXYWHBBoxCoder"):
        raise UserError(f"its boxes are coded by {kind}, which libradet does not offer")
    _only(coder, {"target_means": ([0.0] * 4,), "clip_border": (True,), "add_ctr_clamp": (False,)})
    return coder


def _apply_second_stage(config: DetectorConfig, model: Settings) -> None:
    if config.roi is None:
        return
    # Before version 2 there was no "roi_head" around these.
    found = find(model, "roi_head") or model
    heads = found.get("bbox_head")
    heads = heads if isinstance(heads, list) else [heads or {}]
    if config.cascade is None:
        config.roi.box_std = _box_std(heads[0], config.roi.box_std)
    elif len(heads) == len(config.cascade.box_stds):
        pairs = zip(heads, config.cascade.box_stds, strict=True)
        config.cascade.box_stds = tuple(_box_std(head, default) for head, default in pairs)
    _apply_align(config.roi.align, find(found, "bbox_roi_extractor"))
    if config.mask is not None:
        _apply_align(config.mask.align, find(found, "mask_roi_extractor"))


def _box_std(head: Settings, default: BoxStd) -> BoxStd:
    x, y, w, h = _coder(head).get("target_stds") or default
    return float(x), float(y), float(w), float(h)


def _apply_align(align: RoIAlignConfig, found: Settings) -> None:
    _only(found, {"type": ("SingleRoIExtractor",), "featmap_strides": ([4, 8, 16, 32],)})
    align.canonical_size = 4.0 * found.get("finest_scale", align.canonical_size / 4)
    layer = find(found, "roi_layer")
    _only(layer, {"type": ("RoIAlign",), "pool_mode": ("avg",)})
    align.sampling_ratio = int(layer.get("sampling_ratio", layer.get("sample_num", align.sampling_ratio)))
    align.size = int(layer.get("output_size", layer.get("out_size", align.size)))
    align.aligned = bool(layer.get("aligned", align.aligned))


def _apply_train(config: DetectorConfig, train: Settings) -> None:
    if config.rpn is None:
        return
    border = find(train, "rpn").get("allowed_border")
    if isinstance(border, int | float):
        # Below 0 it looks at no border at all.
        config.rpn.allowed_border = float(border) if border >= 0 else None
    if isinstance(train.get("rpn_proposal"), dict):
        _apply_proposals(config.rpn.train_proposals, train["rpn_proposal"])


def _apply_test(config: DetectorConfig, test: Settings) -> None:
    if config.rpn is not None and isinstance(test.get("rpn"), dict):
        _apply_proposals(config.rpn.test_proposals, test["rpn"])
        if config.proposes:
            config.detections.total = config.rpn.test_proposals.total
    last = test.get("rcnn") if config.roi is not None else test
    if not isinstance(last, dict) or "score_thr" not in last:
        return
    _only(last, {"mask_thr_binary": (0.5,)})
    config.detections.score = float(last["score_thr"])
    _apply_suppression(config.detections, last)
    config.detections.total = int(last.get("max_per_img", config.detections.total))
    if config.dense is not None:
        config.dense.per_level = int(last.get("nms_pre", config.dense.per_level))
        config.detections.min_size = float(last.get("min_bbox_size", config.detections.min_size))


def _apply_proposals(proposals: ProposalConfig, found: Settings) -> None:
    _only(found, {"nms_across_levels": (False,)})
    proposals.per_level = int(found.get("nms_pre", proposals.per_level))
    proposals.total = int(found.get("max_per_img", found.get("max_num", proposals.total)))
    proposals.nms = _iou(found, proposals.nms)
    proposals.min_size = float(found.get("min_bbox_size", proposals.min_size))


def _apply_suppression(detections: DetectionConfig, found: Settings) -> None:
    nms = found.get("nms")
    if not isinstance(nms, dict) or nms.get("type") != "soft_nms":
        detections.nms = _iou(found, detections.nms)
        return
    _only(nms, {"method": ("linear", "gaussian"), "class_agnostic": (False,)})
    detections.suppression = "soft_gaussian" if nms.get("method") == "gaussian" else "soft_linear"
    # What is not said is mmcv's.
    detections.nms = float(nms.get("iou_threshold", nms.get("iou_thr", 0.3)))
    detections.sigma, detections.floor = float(nms.get("sigma", 0.5)), float(nms.get("min_score", 1e-3))


def _iou(found: Settings, default: float) -> float:
    nms = found.get("nms")
    nms = nms if isinstance(nms, dict) else {}
    if (kind := nms.get("type", "nms")) != "nms":
        raise UserError(f"it suppresses detections by {kind!r}, which libradet does not offer")
    _only(nms, {"class_agnostic": (False,)})
    return float(nms.get("iou_threshold", nms.get("iou_thr", found.get("nms_thr", default))))

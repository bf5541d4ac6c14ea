"""Settings in mmdetection's checkpoints, as far as they change detections."""

from collections.abc import Mapping
from typing import Any

from libradet.errors import UserError
from libradet.interop.literal_config import first_dict, iter_dicts, parse_literals, without_modules
from libradet.interop.mmdetection_losses import apply_class_losses, check_mask_head
from libradet.interop.mmdetection_sampling import apply_samplers
from libradet.models.config import (
    AnchorConfig,
    DetectionConfig,
    DetectorConfig,
    ImageConfig,
    ProposalConfig,
    RoIAlignConfig,
)

Settings = Mapping[str, Any]
BoxStd = tuple[float, float, float, float]


def apply_config(config: DetectorConfig, meta: Settings) -> None:
    """Set preprocessing, strides, anchors, box coding, RoIAlign and thresholds as in the checkpoint's metadata.

    Raises:
        UserError: a setting is not supported.
    """
    text = meta.get("cfg") or meta.get("config")
    settings = without_modules(parse_literals(text)) if isinstance(text, str) else {}
    model = settings.get("model")
    if not isinstance(model, dict):
        return
    _apply_image(config, settings, model)
    _apply_backbone(config, first_dict(model, "backbone"))
    for neck in model["neck"] if isinstance(model.get("neck"), list) else [model.get("neck")]:
        _apply_neck(config, neck or {})
    _apply_anchor_heads(config, model)
    _apply_roi_heads(config, model)
    _apply_train(config, model.get("train_cfg") or settings.get("train_cfg") or {})
    _apply_test(config, model.get("test_cfg") or settings.get("test_cfg") or {})


def _require(settings: Settings, allowed: Settings) -> None:
    """Raise UserError for settings other than those ``allowed``; missing ones are accepted."""
    for key, values in allowed.items():
        if settings.get(key) is not None and settings[key] not in values:
            raise UserError(f"its setting {key}={settings[key]!r} is not supported")


def _apply_image(config: DetectorConfig, root: Settings, model: Settings) -> None:
    image, test, preprocessor = config.image, _test_data(root), first_dict(model, "data_preprocessor")
    # Before version 3, a step of the pipeline normalizes, and by default converts to RGB.
    step = next(iter_dicts(test, "mean"), None) or first_dict(root, "img_norm_cfg")
    settings, to_rgb = step, step.get("to_rgb", True)
    if "mean" in preprocessor:
        settings, to_rgb = preprocessor, preprocessor.get("bgr_to_rgb", False)
    if "mean" in settings and "std" in settings:
        image.mean, image.std = tuple(settings["mean"]), tuple(settings["std"])
        image.channels = "rgb" if to_rgb else "bgr"
    _require(preprocessor, {"pad_value": (0,)})
    pads = [step["size_divisor"] for step in iter_dicts(test, "size_divisor")]
    image.size_divisible = int(preprocessor.get("pad_size_divisor", pads[0] if pads else image.size_divisible))
    _apply_size(image, test)


def _test_data(root: Settings) -> Any:
    """Return the part with the steps that the test command applies to images, in versions 3, 2 and 0.6.

    The list ``test_pipeline``, of which that part usually is a copy, may differ from it.
    """
    data = root.get("data")
    parts = [root.get("test_dataloader"), data.get("test") if isinstance(data, dict) else None]
    used = (part for part in parts for key in ("pipeline", "img_scale") if next(iter_dicts(part, key), None))
    return next(used, root.get("test_pipeline"))


def _apply_size(image: ImageConfig, test: Any) -> None:
    for step in iter_dicts(test, "type"):
        # Version 3, which calls the size "scale", changes the aspect ratio by default.
        if step["type"] == "Resize" and not step.get("keep_ratio", "scale" not in step):
            raise UserError("its images are resized without keeping their aspect ratio, which is not supported")
    for key in ("img_scale", "scale"):
        for step in iter_dicts(test, key):
            # Several sizes are those of test-time augmentation.
            size = step[key][0] if isinstance(step[key], list) and len(step[key]) == 1 else step[key]
            if isinstance(size, list) and len(size) == 2 and not isinstance(size[0], list):
                image.size = (min(size), max(size))
                return


def _apply_backbone(config: DetectorConfig, settings: Settings) -> None:
    _require(settings, {"strides": ([1, 2, 2, 2],), "dilations": ([1, 1, 1, 1],), "out_indices": ([0, 1, 2, 3],)})
    config.backbone.stride_in_1x1 = settings.get("style", "pytorch") == "caffe"
    config.backbone.freeze_at = max(int(settings.get("frozen_stages", 1)) + 1, 0)
    config.backbone.frozen_norm = bool(settings.get("norm_eval", True))
    norm = settings.get("norm_cfg")
    if isinstance(norm, dict) and "eps" in norm:
        config.backbone.norm_eps = float(norm["eps"])


def _apply_neck(config: DetectorConfig, settings: Settings) -> None:
    pyramid = config.pyramid
    if pyramid.balanced is not None:
        pyramid.balanced.level = int(settings.get("refine_level", pyramid.balanced.level))
    if "in_channels" not in settings or settings.get("type") == "BFP":
        return
    _require(settings, {"add_extra_convs": (False, True, "on_input", "on_output"), "end_level": (-1, 3)})
    _require(settings.get("upsample_cfg") or {}, {"mode": ("nearest",)})
    if settings.get("act_cfg") is not None:
        raise UserError("activations in its pyramid (act_cfg) are not supported")
    pyramid.extra_relu = bool(settings.get("relu_before_extra_convs", False))
    pyramid.num_levels = int(settings.get("num_outs", pyramid.num_levels))


def _apply_anchor_heads(config: DetectorConfig, model: Settings) -> None:
    for head, key in ((config.rpn, "rpn_head"), (config.retinanet, "bbox_head")):
        settings = first_dict(model, key)
        if head is None or not settings:
            continue
        _apply_anchors(head.anchors, first_dict(settings, "anchor_generator") or settings)
        coder = _box_coder(settings)
        _require(coder, {"target_stds": ([1.0, 1.0, 1.0, 1.0],)})


def _apply_anchors(anchors: AnchorConfig, settings: Settings) -> None:
    _require(settings, {"scale_major": (True,), "base_sizes": (), "centers": ()})
    if str(settings.get("type", "")).startswith("Legacy"):
        raise UserError(f"its anchor generator {settings['type']} is not supported")
    if isinstance(octaves := settings.get("scales_per_octave"), int):
        base = settings.get("octave_base_scale", 4)
        anchors.scales = tuple(base * 2 ** (i / octaves) for i in range(octaves))
    if isinstance(scales := settings.get("scales", settings.get("anchor_scales")), list):
        anchors.scales = tuple(float(s) for s in scales)
    if isinstance(ratios := settings.get("ratios", settings.get("anchor_ratios")), list):
        anchors.ratios = tuple(float(r) for r in ratios)
    anchors.offset = float(settings.get("center_offset", anchors.offset))


def _box_coder(head: Settings) -> Settings:
    """Return the settings of a head's box coder, which before version 2 are those of the head itself."""
    coder = first_dict(head, "bbox_coder") or head
    kind = coder.get("type", "") if coder is not head else ""
    if kind not in ("", "DeltaXYWHBBoxCoder"):
        raise UserError(f"its box coder {kind} is not supported")
    _require(coder, {"target_means": ([0.0] * 4,), "clip_border": (True,), "add_ctr_clamp": (False,)})
    return coder


def _apply_roi_heads(config: DetectorConfig, model: Settings) -> None:
    if config.roi is None:
        return
    # Before version 2 there was no "roi_head" around these.
    settings = first_dict(model, "roi_head") or model
    heads = settings.get("bbox_head")
    heads = heads if isinstance(heads, list) else [heads or {}]
    apply_class_losses(config.roi, [head for head in heads if isinstance(head, dict)])
    if config.cascade is None:
        config.roi.box_std = _box_std(heads[0], config.roi.box_std)
    elif len(heads) == len(config.cascade.box_stds):
        pairs = zip(heads, config.cascade.box_stds, strict=True)
        config.cascade.box_stds = tuple(_box_std(head, default) for head, default in pairs)
    _apply_align(config.roi.align, _extractor(settings, "bbox_roi_extractor"))
    if config.mask is not None:
        _apply_align(config.mask.align, _extractor(settings, "mask_roi_extractor"))
        check_mask_head(first_dict(settings, "mask_head"))


def _box_std(head: Settings, default: BoxStd) -> BoxStd:
    x, y, w, h = _box_coder(head).get("target_stds") or default
    return float(x), float(y), float(w), float(h)


def _extractor(settings: Settings, key: str) -> Settings:
    """Return the RoI extractor, of which a cascade may have one for each stage."""
    value = next(iter_dicts(settings, key), {}).get(key)
    extractors = [e for e in (value if isinstance(value, list) else [value]) if isinstance(e, dict)]
    if any(extractor != extractors[0] for extractor in extractors):
        raise UserError(f"the {key}s of its stages differ, which is not supported")
    return extractors[0] if extractors else {}


def _apply_align(align: RoIAlignConfig, settings: Settings) -> None:
    _require(settings, {"type": ("SingleRoIExtractor",), "featmap_strides": ([4, 8, 16, 32],)})
    align.canonical_size = 4.0 * settings.get("finest_scale", align.canonical_size / 4)
    layer = first_dict(settings, "roi_layer")
    _require(layer, {"type": ("RoIAlign",), "pool_mode": ("avg",)})
    align.sampling_ratio = int(layer.get("sampling_ratio", layer.get("sample_num", align.sampling_ratio)))
    align.output_size = int(layer.get("output_size", layer.get("out_size", align.output_size)))
    align.aligned = bool(layer.get("aligned", align.aligned))


def _apply_train(config: DetectorConfig, train: Settings) -> None:
    apply_samplers(config, train)
    if config.rpn is None:
        return
    border = first_dict(train, "rpn").get("allowed_border")
    if isinstance(border, int | float):
        # A negative value switches the check off.
        config.rpn.allowed_border = float(border) if border >= 0 else None
    if isinstance(train.get("rpn_proposal"), dict):
        _apply_proposals(config.rpn.train_proposals, train["rpn_proposal"])


def _apply_test(config: DetectorConfig, test: Settings) -> None:
    if config.rpn is not None and isinstance(test.get("rpn"), dict):
        _apply_proposals(config.rpn.test_proposals, test["rpn"])
        if config.is_proposal_model:
            config.detections.detections_per_img = config.rpn.test_proposals.post_nms_top_n
    last = test.get("rcnn") if config.roi is not None else test
    if not isinstance(last, dict) or "score_thr" not in last:
        return
    _require(last, {"mask_thr_binary": (0.5,)})
    config.detections.score_thresh = float(last["score_thr"])
    _apply_nms(config.detections, last)
    config.detections.detections_per_img = int(last.get("max_per_img", config.detections.detections_per_img))
    if config.retinanet is not None:
        config.retinanet.topk_candidates = int(last.get("nms_pre", config.retinanet.topk_candidates))
        config.detections.min_size = float(last.get("min_bbox_size", config.detections.min_size))


def _apply_proposals(proposals: ProposalConfig, settings: Settings) -> None:
    _require(settings, {"nms_across_levels": (False,)})
    proposals.pre_nms_top_n = int(settings.get("nms_pre", proposals.pre_nms_top_n))
    proposals.post_nms_top_n = int(settings.get("max_per_img", settings.get("max_num", proposals.post_nms_top_n)))
    proposals.nms_thresh = _iou_threshold(settings, proposals.nms_thresh)
    proposals.min_size = float(settings.get("min_bbox_size", proposals.min_size))


def _apply_nms(detections: DetectionConfig, settings: Settings) -> None:
    nms = settings.get("nms")
    if not isinstance(nms, dict) or nms.get("type") != "soft_nms":
        detections.nms_thresh = _iou_threshold(settings, detections.nms_thresh)
        return
    _require(nms, {"method": ("linear", "gaussian"), "class_agnostic": (False,)})
    detections.nms_type = "soft_gaussian" if nms.get("method") == "gaussian" else "soft_linear"
    # Defaults are mmcv's.
    detections.nms_thresh = float(nms.get("iou_threshold", nms.get("iou_thr", 0.3)))
    detections.sigma, detections.min_score = float(nms.get("sigma", 0.5)), float(nms.get("min_score", 1e-3))


def _iou_threshold(settings: Settings, default: float) -> float:
    nms = settings.get("nms")
    nms = nms if isinstance(nms, dict) else {}
    if (kind := nms.get("type", "nms")) != "nms":
        raise UserError(f"its NMS type {kind!r} is not supported")
    _require(nms, {"class_agnostic": (False,)})
    return float(nms.get("iou_threshold", nms.get("iou_thr", settings.get("nms_thr", default))))

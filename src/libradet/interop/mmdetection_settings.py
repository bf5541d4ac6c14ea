"""The settings that mmdetection's trainers write beside the weights: Python text, read as data and never run."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from libradet.errors import UserError
from libradet.models.config import AnchorConfig, DetectorConfig, ProposalConfig, RoIAlignConfig


def apply(config: DetectorConfig, meta: Mapping[str, Any]) -> None:
    """Take over what changes detections: normalisation, strides, anchors, RoIAlign, thresholds."""
    text = meta.get("cfg") or meta.get("config")
    settings = read(text) if isinstance(text, str) else {}
    model = settings.get("model")
    if not isinstance(model, dict):
        return
    _apply_image(config, {**_first(settings, "img_norm_cfg"), **_first(model, "data_preprocessor")})
    backbone = _first(model, "backbone")
    config.backbone.stride_in_1x1 = backbone.get("style", "pytorch") == "caffe"
    config.backbone.freeze_at = max(int(backbone.get("frozen_stages", 1)) + 1, 0)
    config.backbone.frozen_norm = bool(backbone.get("norm_eval", True))
    for neck in _all(model.get("neck"), "refine_level"):
        if config.pyramid.balanced is not None:
            config.pyramid.balanced.level = neck["refine_level"]
    _apply_heads(config, model)
    test = model.get("test_cfg") or settings.get("test_cfg") or {}
    _apply_test(config, test)


def read(text: str) -> dict[str, Any]:
    """Assignments in ``text`` whose value is made of literals and ``dict(…)``; {} if it is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = _value(statement.value, values)
    return values


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {k.arg: _value(k.value, known) for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value, known) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Name):
        return known.get(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _all(tree: Any, key: str) -> Iterator[dict[str, Any]]:
    """Dictionaries in ``tree`` that have ``key``."""
    if isinstance(tree, dict):
        if tree.get(key) is not None:
            yield tree
        tree = list(tree.values())
    for item in tree if isinstance(tree, list) else []:
        yield from _all(item, key)


def _first(tree: Any, key: str) -> dict[str, Any]:
    found = next(_all(tree, key), {}).get(key)
    return found if isinstance(found, dict) else {}


def _apply_image(config: DetectorConfig, found: Mapping[str, Any]) -> None:
    if "mean" in found and "std" in found:
        config.image.mean, config.image.std = tuple(found["mean"]), tuple(found["std"])
        to_rgb = found.get("to_rgb", found.get("bgr_to_rgb", False))
        config.image.channels = "rgb" if to_rgb else "bgr"


def _apply_heads(config: DetectorConfig, model: Mapping[str, Any]) -> None:
    for head in (config.rpn, config.dense):
        if head is not None:
            _apply_anchors(head.anchors, _first(model, "anchor_generator") or _first(model, "rpn_head"))
    if config.roi is not None:
        _apply_align(config.roi.align, _first(_first(model, "bbox_roi_extractor"), "roi_layer"))
    if config.mask is not None:
        _apply_align(config.mask.align, _first(_first(model, "mask_roi_extractor"), "roi_layer"))


def _apply_anchors(anchors: AnchorConfig, found: Mapping[str, Any]) -> None:
    if isinstance(octaves := found.get("scales_per_octave"), int):
        base = found.get("octave_base_scale", 4)
        anchors.scales = tuple(base * 2 ** (i / octaves) for i in range(octaves))
    if isinstance(scales := found.get("scales", found.get("anchor_scales")), list):
        anchors.scales = tuple(float(s) for s in scales)
    if isinstance(ratios := found.get("ratios", found.get("anchor_ratios")), list):
        anchors.ratios = tuple(float(r) for r in ratios)


def _apply_align(align: RoIAlignConfig, found: Mapping[str, Any]) -> None:
    align.sampling_ratio = int(found.get("sampling_ratio", found.get("sample_num", align.sampling_ratio)))
    align.size = int(found.get("output_size", found.get("out_size", align.size)))
    align.aligned = bool(found.get("aligned", align.aligned))


def _apply_test(config: DetectorConfig, test: Mapping[str, Any]) -> None:
    if config.rpn is not None and isinstance(test.get("rpn"), dict):
        _apply_proposals(config.rpn.test_proposals, test["rpn"])
    last = test.get("rcnn") if config.roi is not None else test
    if isinstance(last, dict) and "score_thr" in last:
        kind = (last.get("nms") or {}).get("type", "nms")
        if kind != "nms":
            raise UserError(f"it suppresses detections by {kind!r}, which libradet does not offer")
        config.detections.score = float(last["score_thr"])
        config.detections.nms = float(_iou(last, config.detections.nms))
        config.detections.total = int(last.get("max_per_img", config.detections.total))
        if config.dense is not None:
            config.dense.per_level = int(last.get("nms_pre", config.dense.per_level))


def _apply_proposals(proposals: ProposalConfig, found: Mapping[str, Any]) -> None:
    proposals.per_level = int(found.get("nms_pre", proposals.per_level))
    proposals.total = int(found.get("max_per_img", found.get("max_num", proposals.total)))
    proposals.nms = float(_iou(found, proposals.nms))
    proposals.min_size = float(found.get("min_bbox_size", proposals.min_size))


def _iou(found: Mapping[str, Any], default: float) -> float:
    nms = found.get("nms")
    nms = nms if isinstance(nms, dict) else {}
    return nms.get("iou_threshold", nms.get("iou_thr", found.get("nms_thr", default)))

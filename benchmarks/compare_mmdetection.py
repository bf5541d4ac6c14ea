"""Comparison of detections with mmdetection, for the same checkpoint.

Needs mmdetection 3 (mmdet, mmengine, mmcv). A configuration is a name such as
libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py among those packaged with mmdet. Without a checkpoint, random weights
are used that yield many detections of many classes. Prints over all images: the number of mmdetection's detections,
how many of them are missing in libradet and how many are surplus (within 0.05 pixels and 0.001 of score, same class),
and the largest differences of boxes, scores and pyramid levels.

    python benchmarks/compare_mmdetection.py CONFIG [CONFIG ...] --images IMAGE ... [--checkpoint FILE]
"""

import argparse
import tempfile
from functools import partialmethod
from pathlib import Path

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

import libradet
from libradet.data.collate import prepare_batch
from libradet.data.image_io import read_image

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
BOX_TOLERANCE, SCORE_TOLERANCE = 0.05, 1e-3
# Mean and standard deviation of the last layers' outputs.
LAST_LAYERS = {
    "rpn_cls": (-1.0, 2.5),
    "rpn_reg": (0.0, 0.5),
    "fc_cls": (0.0, 2.0),
    "fc_reg": (0.0, 1.5),
    "retina_cls": (-5.0, 1.3),
    "retina_reg": (0.0, 0.4),
    "conv_logits": (0.0, 3.0),
}
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Initialize weights at random, and norms with statistics as after training."""
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.2)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            # Small weights in the last norm of a block keep residuals from accumulating over blocks.
            nn.init.uniform_(m.weight, *((0.2, 0.4) if name.endswith("bn3") else (0.5, 1.5)))
        elif isinstance(m, LAYERS):
            nn.init.kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


@torch.no_grad()
def scale_outputs(model: nn.Module, image: np.ndarray) -> None:
    """Scale each layer of pyramid and heads so that its output varies as much as a trained one's."""
    scaled = set()

    def hook(m: nn.Module, _: tuple, out: Tensor) -> Tensor | None:
        if m in scaled or not out.numel():
            return None
        scaled.add(m)
        default_std = 0.3 if "theta" in names[m] or "phi" in names[m] else 1
        mean, std = LAST_LAYERS.get(names[m].split(".")[-1], (None, default_std))
        dims = (0, *range(2, out.dim()))
        factor = std / (out - out.mean(dims, keepdim=True)).std().clamp(min=1e-9)
        m.weight.mul_(factor)
        if mean is None:
            return out * factor
        channel_means = out.mean(dims) * factor
        m.bias.copy_(mean - channel_means + 0.2 * torch.randn_like(channel_means))
        return out * factor + m.bias.view(1, -1, *[1] * (out.dim() - 2))

    names = {m: n for n, m in model.named_modules() if isinstance(m, LAYERS) and not n.startswith("backbone")}
    hooks = [m.register_forward_hook(hook) for m in names]
    run_mmdetection(model, image)
    for handle in hooks:
        handle.remove()


@torch.no_grad()
def run_mmdetection(model: nn.Module, image: np.ndarray):
    """Return mmdetection's pyramid levels and detections, without resizing. ``image``: RGB [H, W, 3]."""
    sample = DetDataSample()
    shape = image.shape[:2]
    sample.set_metainfo({"img_id": 0, "ori_shape": shape, "img_shape": shape, "scale_factor": (1.0, 1.0)})
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).contiguous()
    data = model.data_preprocessor({"inputs": [bgr], "data_samples": [sample]}, False)
    detections = model.predict(data["inputs"], data["data_samples"], rescale=True)[0].pred_instances
    return model.extract_feat(data["inputs"]), detections


def compare_detections(theirs, ours) -> dict[str, float]:
    """Match detections one to one; those beyond the tolerances are missing or surplus."""
    row = dict.fromkeys(("theirs", "missing", "surplus", "box", "score"), 0.0)
    unmatched = np.ones(len(ours), bool)
    boxes, scores, labels = (getattr(theirs, name).numpy() for name in ("bboxes", "scores", "labels"))
    for box, score, label in zip(boxes, scores, labels, strict=True):
        box_distance = np.abs(ours.xyxy - box).max(1, initial=0)
        score_distance = np.abs(ours.confidence - score)
        near = (box_distance < BOX_TOLERANCE) & (score_distance < SCORE_TOLERANCE)
        near &= unmatched & (ours.class_id == label)
        if not near.any():
            row["missing"] += 1
            continue
        best = np.where(near, box_distance, np.inf).argmin()
        unmatched[best] = False
        row["box"], row["score"] = max(row["box"], box_distance[best]), max(row["score"], score_distance[best])
    return row | {"theirs": len(boxes), "surplus": unmatched.sum()}


def compare(name: str, images: list[np.ndarray], checkpoint: Path | None) -> dict[str, float]:
    """Build ``name`` in mmdetection, load its checkpoint in libradet, and compare both on every image."""
    config = Config.fromfile(name if Path(name).exists() else CONFIGS / name)
    for part in (config.model, config.model.backbone):
        part.pop("init_cfg", None)
    init_default_scope("mmdet")
    mmdetection = MODELS.build(config.model).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint or Path(folder) / "random.pth"
        if checkpoint:
            load_checkpoint(mmdetection, str(checkpoint), map_location="cpu")
        else:
            randomize(mmdetection)
            scale_outputs(mmdetection, images[0])
            torch.save({"meta": {"mmdet_version": "3.3.0"}, "state_dict": mmdetection.state_dict()}, path)
        model = libradet.load_model(path)
    total = dict.fromkeys(("theirs", "missing", "surplus", "box", "score", "levels"), 0.0)
    for image in images:
        their_levels, detections = run_mmdetection(mmdetection, image)
        with torch.inference_mode():
            levels = model.extract_features(prepare_batch([image], "original", model.size_divisible))
        row = compare_detections(detections, model.predict(image, score_thresh=0.0, size="original"))
        row["levels"] = max((a - b).abs().max().item() for a, b in zip(their_levels, levels, strict=True))
        for key, value in row.items():
            total[key] = total[key] + value if key in ("theirs", "missing", "surplus") else max(total[key], value)
    return total


def main() -> None:
    """Print a row per configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--images", nargs="+", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="of the (one) configuration")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # mmdetection relies on a stable sort, which was the default in the PyTorch of its time.
    torch.Tensor.sort = partialmethod(torch.Tensor.sort, stable=True)
    images = [np.ascontiguousarray(read_image(path).permute(1, 2, 0).numpy()) for path in args.images]
    for name in args.configs:
        torch.manual_seed(args.seed)
        t = compare(name, images, args.checkpoint)
        print(
            f"{Path(name).stem:40} detections {t['theirs']:.0f}  missing {t['missing']:.0f}  surplus {t['surplus']:.0f}"
            f"  box {t['box']:.1e} px  score {t['score']:.1e}  levels {t['levels']:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The same checkpoint in mmdetection and here: do both find the same things?

Needs mmdetection 3 (mmdet, mmengine, mmcv) beside libradet. A configuration is a name such as
libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py among those that mmdet brings. Without a checkpoint, random
weights are made that find many objects of many classes. Printed is, over all images: how many detections
mmdetection has, how many of them are missing here or surplus (0.05 pixels, score 0.001, same class), and the
largest differences of boxes, scores and pyramid levels.

    python benchmarks/against_mmdetection.py CONFIG [CONFIG ...] --images IMAGE ... [--checkpoint FILE]
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
from libradet.data.images import load_image
from libradet.data.loading.transforms import prepare

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
BOX, SCORE = 0.05, 1e-3
# Mean and spread of what the last layers say of an image.
LAST = {
    **{"rpn_cls": (-1.0, 2.5), "rpn_reg": (0.0, 0.5), "fc_cls": (0.0, 2.0), "fc_reg": (0.0, 1.5)},
    **{"retina_cls": (-5.0, 1.3), "retina_reg": (0.0, 0.4), "conv_logits": (0.0, 3.0)},
}
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random weights, and statistics of norms as training leaves them."""
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.2)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.1)
            # The last norm of a block: residuals of full size would pile up from block to block.
            nn.init.uniform_(m.weight, *((0.2, 0.4) if name.endswith("bn3") else (0.5, 1.5)))
        elif isinstance(m, LAYERS):
            nn.init.kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


@torch.no_grad()
def enliven(model: nn.Module, image: np.ndarray) -> None:
    """Scale each layer of pyramid and heads so that its output varies as much as a trained one's."""
    seen = set()

    def hook(m: nn.Module, _: tuple, out: Tensor) -> Tensor | None:
        if m in seen or not out.numel():
            return None
        seen.add(m)
        mean, spread = LAST.get(names[m].split(".")[-1], (None, 0.3 if "theta" in names[m] or "phi" in names[m] else 1))
        dims = (0, *range(2, out.dim()))
        factor = spread / (out - out.mean(dims, keepdim=True)).std().clamp(min=1e-9)
        m.weight.mul_(factor)
        if mean is None:
            return out * factor
        own = out.mean(dims) * factor
        m.bias.copy_(mean - own + 0.2 * torch.randn_like(own))
        return out * factor + m.bias.view(1, -1, *[1] * (out.dim() - 2))

    names = {m: n for n, m in model.named_modules() if isinstance(m, LAYERS) and not n.startswith("backbone")}
    hooks = [m.register_forward_hook(hook) for m in names]
    look(model, image)
    for handle in hooks:
        handle.remove()


@torch.no_grad()
def look(model: nn.Module, image: np.ndarray):
    """Pyramid levels and detections of mmdetection, without resizing. ``image``: RGB [H, W, 3]."""
    sample = DetDataSample()
    shape = image.shape[:2]
    sample.set_metainfo({"img_id": 0, "ori_shape": shape, "img_shape": shape, "scale_factor": (1.0, 1.0)})
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).contiguous()
    data = model.data_preprocessor({"inputs": [bgr], "data_samples": [sample]}, False)
    found = model.predict(data["inputs"], data["data_samples"], rescale=True)[0].pred_instances
    return model.extract_feat(data["inputs"]), found


def differences(theirs, ours) -> dict[str, float]:
    """Match detections one to one; what is farther than the limits is missing or surplus."""
    free, row = np.ones(len(ours), bool), dict.fromkeys(("theirs", "missing", "surplus", "box", "score"), 0.0)
    boxes, scores, labels = (getattr(theirs, name).numpy() for name in ("bboxes", "scores", "labels"))
    for box, score, label in zip(boxes, scores, labels, strict=True):
        away, off = np.abs(ours.xyxy - box).max(1, initial=0), np.abs(ours.confidence - score)
        near = free & (ours.class_id == label) & (away < BOX) & (off < SCORE)
        if not near.any():
            row["missing"] += 1
            continue
        best = np.where(near, away, np.inf).argmin()
        free[best] = False
        row["box"], row["score"] = max(row["box"], away[best]), max(row["score"], off[best])
    return row | {"theirs": len(boxes), "surplus": free.sum()}


def compare(name: str, images: list[np.ndarray], checkpoint: Path | None) -> dict[str, float]:
    """Build ``name`` in mmdetection, load its checkpoint here, and look at every image with both."""
    config = Config.fromfile(name if Path(name).exists() else CONFIGS / name)
    for part in (config.model, config.model.backbone):
        part.pop("init_cfg", None)
    init_default_scope("mmdet")
    there = MODELS.build(config.model).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = checkpoint or Path(folder) / "random.pth"
        if checkpoint:
            load_checkpoint(there, str(checkpoint), map_location="cpu")
        else:
            randomise(there)
            enliven(there, images[0])
            torch.save({"meta": {"mmdet_version": "3.3.0"}, "state_dict": there.state_dict()}, file)
        here = libradet.load_model(file)
    total = dict.fromkeys(("theirs", "missing", "surplus", "box", "score", "levels"), 0.0)
    for image in images:
        levels, found = look(there, image)
        with torch.inference_mode():
            own = here.extract_features(prepare([image], "original", here.divisor))
        row = differences(found, here.predict(image, threshold=0.0, size="original"))
        row["levels"] = max((a - b).abs().max().item() for a, b in zip(levels, own, strict=True))
        for key, value in row.items():
            total[key] = total[key] + value if key in ("theirs", "missing", "surplus") else max(total[key], value)
    return total


def main() -> None:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--images", nargs="+", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="of the (one) configuration")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Of equal scores mmdetection takes the first: PyTorch of its time sorted so, newer ones only if asked to.
    torch.Tensor.sort = partialmethod(torch.Tensor.sort, stable=True)
    images = [np.ascontiguousarray(load_image(path).permute(1, 2, 0).numpy()) for path in args.images]
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

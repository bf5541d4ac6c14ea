"""Run an exported detector: python onnx_predict.py MODEL.onnx IMAGE ...  Needs onnxruntime, numpy and Pillow only."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])

for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    # Input: one or more images of equal size. Output: boxes in their pixels, sorted by score.
    outputs = session.run(["boxes", "scores", "labels", "valid"], {"images": np.asarray(image)[None]})
    boxes, scores, labels, valid = (output[0] for output in outputs)
    for box, score, label in zip(boxes[valid], scores[valid], labels[valid], strict=True):
        x0, y0, x1, y1 = box.round(1).tolist()
        print(f"{path}: {names[label]} {score:.2f} at {x0}, {y0}, {x1}, {y1}")

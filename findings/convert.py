import json
import logging
import re
from importlib.metadata import version
from pathlib import Path

from label_studio_sdk.converter import Converter
from PIL import Image

logging.disable(logging.ERROR)
CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="cat"/><Label value="dog"/></RectangleLabels></View>"""
Image.new("RGB", (200, 100)).save("a.png")


def annotation(number, x=40, rotation=0, labels=("cat",)):
    """Return an annotation with one rectangle, in percent, as Label Studio exports it."""
    value = {"x": x, "y": 30, "width": 20, "height": 20, "rotation": rotation, "rectanglelabels": list(labels)}
    names = {"id": f"r{number}", "from_name": "label", "to_name": "image", "type": "rectanglelabels"}
    sizes = {"original_width": 200, "original_height": 100, "image_rotation": 0}
    return {"id": number, "result": [names | sizes | {"value": value}], "was_cancelled": False, "completed_by": {"id": number}}


def convert(name, annotations):
    """Return the objects in each format, COCO's images first; boxes are left, top, right, bottom."""
    folder = Path(name)
    folder.mkdir()
    file = folder / "tasks.json"
    file.write_text(json.dumps([{"id": 1, "data": {"image": "/a.png"}, "annotations": annotations, "predictions": []}]))
    for kind in ("coco", "yolo", "voc"):
        converter = Converter(CONFIG, project_dir=".", download_resources=False)
        getattr(converter, f"convert_to_{kind}")(str(file), str(folder / kind), is_dir=False)
    content = json.loads((folder / "coco/result.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    coco = [len(content["images"])]
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        coco.append((names[a["category_id"]], *(round(value) for value in (x, y, x + w, y + h))))
    classes = (folder / "yolo/classes.txt").read_text().split()
    yolo = []
    for path in (folder / "yolo/labels").glob("*.txt"):
        for line in path.read_text().splitlines():
            k, x, y, w, h = map(float, line.split())
            box = (200 * (x - w / 2), 100 * (y - h / 2), 200 * (x + w / 2), 100 * (y + h / 2))
            yolo.append((classes[int(k)], *map(round, box)))
    text = "".join(path.read_text() for path in folder.glob("voc/**/*.xml"))
    objects = re.findall(r"<object>\s*<name>(\w+)</name>.*?<bndbox>(.*?)</bndbox>", text, re.S)
    voc = [(label, *map(int, re.findall(r">(\d+)<", box))) for label, box in objects]
    print(f"{name}: COCO {coco}, YOLO {yolo}, VOC {voc}")
    return coco, yolo, voc


print("label-studio-sdk", version("label-studio-sdk"))
plain = convert("not rotated", [annotation(1)])
rotated = convert("rotated by 90", [annotation(1, rotation=90)])
labels = convert("two labels", [annotation(1, labels=("cat", "dog"))])
people = convert("two people", [annotation(1), annotation(2, x=45)])
cat = ("cat", 80, 30, 120, 50)
assert plain == ([1, cat], [cat], [cat]), "a plain rectangle has changed"
assert rotated == ([1, ("cat", 40, 30, 80, 50)], [cat], [cat]), "rotated rectangles have changed"
assert labels == ([1, cat], [cat, ("dog", *cat[1:])], [cat]), "two labels have changed"
last = ("cat", 90, 30, 130, 50)
assert people == ([2, cat, last], [last], [last]), "two annotations of an image have changed"

"""COCO's 80 classes: assumed for checkpoints without class names that have as many classes."""

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
NAMES = tuple(_NAMES.split(","))
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
IDS = tuple(i for i in range(1, 91) if i not in UNUSED_IDS)


def class_names_and_ids(num_classes: int, names: tuple[str, ...] = ()) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names (``class_0``, ... if unknown), and category ids if the classes are COCO's."""
    if not names and num_classes == len(NAMES):
        names = NAMES
    # Version 1 of mmdetection has underscores in them.
    if tuple(name.replace("_", " ") for name in names) == NAMES:
        return NAMES, IDS
    return names or tuple(f"class_{i}" for i in range(num_classes)), ()

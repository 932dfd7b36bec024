"""The class names of COCO."""

from __future__ import annotations

# The 80 classes that have boxes, in the order in which detectors number them.
COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)

# COCO's category numbers run to 90; these are the ones that were never used.
_UNUSED = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_used = iter(COCO_NAMES)

# By category number, as RF-DETR's published weights count: 91 names, "" for the unused ones.
COCO_CATEGORIES = tuple("" if number in _UNUSED else next(_used) for number in range(91))

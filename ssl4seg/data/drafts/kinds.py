"""The forms of annotations that `ssl4seg-predict` writes."""

from ssl4seg.data.drafts.base import Draft
from ssl4seg.data.drafts.coco import Coco
from ssl4seg.data.drafts.cvat import Cvat
from ssl4seg.data.drafts.labelme import LabelMe
from ssl4seg.data.drafts.panoptic import Panoptic

DRAFTS: dict[str, type[Draft]] = {kind.format: kind for kind in (Coco, Panoptic, LabelMe, Cvat)}

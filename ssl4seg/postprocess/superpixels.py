"""Post-processing by a vote of superpixels."""

import numpy as np
from skimage.segmentation import slic

from ssl4seg.data.case import FloatArray, LabelArray
from ssl4seg.postprocess.base import Given, Step


class Superpixels(Step):
    """All pixels of a superpixel of the image take the class that most of them have (of equals the lower number).

    Superpixels are those of SLIC (Achanta et al., TPAMI 2012) in scikit-image's form, found slice by slice; pictures of
    three channels are compared in CIELAB, others by their values, of which the image's range counts as 100.

    Args:
        size: pixels of a superpixel, about.
        compactness: how much distance counts against colour.
    """

    name = "superpixels"

    def __init__(self, *, size: float = 100, compactness: float = 10.0) -> None:
        for key, value in (("size", size), ("compactness", compactness)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise self.wrong(key, value, "a number above 0")
        self.size, self.compactness = size, compactness

    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        pairs = zip(label, given.image, strict=True)
        return np.stack([self.voted(mask, np.moveaxis(image, 0, -1)) for mask, image in pairs])

    def voted(self, label: LabelArray, image: FloatArray) -> LabelArray:
        """[H, W] and [H, W, C] -> [H, W]."""
        in_lab = image.shape[-1] == 3
        numbers = slic(
            image,
            n_segments=max(1, round(label.size / self.size)),
            compactness=self.compactness if in_lab else self.compactness / 100,
            convert2lab=in_lab,
            start_label=0,
            channel_axis=-1,
        )
        num_classes = int(label.max()) + 1
        votes = np.bincount((numbers * num_classes + label).ravel(), minlength=(numbers.max() + 1) * num_classes)
        winners = votes.reshape(-1, num_classes).argmax(axis=1).astype(np.uint8)
        return np.asarray(winners[numbers])

"""Post-processing by a vote of superpixels."""

import numpy as np
from skimage.segmentation import slic

from ssl4seg.data.case import FloatArray, LabelArray
from ssl4seg.keys import above
from ssl4seg.scoring.postprocess.base import Given, Step


class Superpixels(Step):
    """Give all pixels of a superpixel the class that most of them have (on a tie the lower number).

    Superpixels come from SLIC (Achanta et al., TPAMI 2012) as scikit-image implements it, slice by slice. Images of
    three channels are compared in CIELAB, others by their values, whose range counts as 100.

    Args:
        size: approximate number of pixels in a superpixel.
        compactness: weight of distance against colour.
    """

    name = "superpixels"

    def __init__(self, *, size: float = 100, compactness: float = 10.0) -> None:
        self.require(above(0), size=size, compactness=compactness)
        self.size, self.compactness = size, compactness

    def __call__(self, label: LabelArray, given: Given) -> LabelArray:
        pairs = zip(label, given.image, strict=True)
        return np.stack([self.voted(mask, np.moveaxis(image, 0, -1)) for mask, image in pairs])

    def voted(self, label: LabelArray, image: FloatArray) -> LabelArray:
        """[*X] and [*X, C] -> [*X]."""
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

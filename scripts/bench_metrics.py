"""Time HD95 + ASD of whole volumes against medpy on the uncropped masks, and check that the values are the same.

    python scripts/bench_metrics.py dataset=acdc dataset.root=DATA/ACDC

The prediction is the truth shifted by some voxels, so that no trained network is needed.
"""

import sys
import time
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from medpy.metric.binary import asd, hd95
from omegaconf import OmegaConf

from ssl4seg.commands.conf import conf_dir
from ssl4seg.data.reading import read_all
from ssl4seg.run.assemble import dataset_of
from ssl4seg.scoring.metrics import score


def main() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config: Any = OmegaConf.to_container(compose("eval", overrides=sys.argv[1:]), resolve=True)
    dataset = dataset_of(config["dataset"])
    ours = theirs = 0.0
    masks = 0
    for _, volume in read_all(dataset.cases("test"), dataset.num_classes):
        label = volume.label
        assert label is not None
        shifted = np.roll(label, (2, 3), axis=(1, 2))
        for k in range(1, dataset.num_classes):
            prediction, truth = shifted == k, label == k
            if not truth.any():
                continue
            start = time.perf_counter()
            scores = score(prediction, truth)
            middle = time.perf_counter()
            reference = hd95(prediction, truth), asd(prediction, truth)
            ours, theirs, masks = ours + middle - start, theirs + time.perf_counter() - middle, masks + 1
            assert (scores["hd95"], scores["asd"]) == reference, (scores, reference)
    ours_ms, theirs_ms = 1e3 * ours / masks, 1e3 * theirs / masks
    print(f"{masks} masks, values identical: ours {ours_ms:.2f} ms a mask, medpy {theirs_ms:.2f} ms")
    print(f"ratio: {theirs / ours:.1f}")


if __name__ == "__main__":
    main()

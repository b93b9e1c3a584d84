#!/bin/sh
# Every method on the embedded phantom, 2 of 40 patients labelled, three seeds, and the upper bound.
#   scripts/phantom_methods.sh [KEY=VALUE ...]
# The same command goes on where it was stopped.
ssl4seg-train -m 'method=glob(*, exclude=gct)' labeled_ratio=0.05 seed=0,1,2 "$@"
# With the 64 channels of its paper, steps of 64 x 64 slices take four to five times as long.
ssl4seg-train -m method=gct method.detector_width=16 labeled_ratio=0.05 seed=0,1,2 "$@"
ssl4seg-train -m method=supervised labeled_ratio=1 seed=0,1,2 "$@"
ssl4seg-report outputs/phantom

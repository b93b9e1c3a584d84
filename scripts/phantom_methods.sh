#!/bin/sh
# Every method on the embedded phantom, 2 of 40 patients labelled, three seeds, and the upper bound.
#   scripts/phantom_methods.sh [KEY=VALUE ...]
# The same command goes on where an earlier call stopped.
ssl4seg-train -m 'method=glob(*, exclude=gct)' labeled_ratio=0.05 seed=0,1,2 "$@"
# GCT with a narrow flaw detector: with the paper's 64 channels, steps of 64 x 64 slices take four to five times as long.
ssl4seg-train -m method=gct method.detector_width=16 labeled_ratio=0.05 seed=0,1,2 "$@"
ssl4seg-train -m method=supervised labeled_ratio=1 seed=0,1,2 "$@"
ssl4seg-report outputs/phantom

#!/bin/sh
# The small version of both ACDC tables for a CPU: 800 steps of 4 + 4 slices of 128 x 128, three seeds.
#   scripts/acdc_small.sh DATA/ACDC [KEY=VALUE ...]
# The same command goes on where an earlier call stopped.
root=${1:?the folder of ACDC}; shift
ssl4seg-train -m experiment=acdc_small dataset.root="$root" labeled_cases=14 seed=0,1,2 \
  method=supervised,mean_teacher,uamt,ict,entropy_minimization,urpc,dan "$@"
ssl4seg-train -m experiment=acdc_small dataset.root="$root" labeled_cases=7 seed=0,1,2 \
  method=supervised,mean_teacher,uamt,cutmix_seg,fixmatch,unimatch,bcp "$@"
ssl4seg-train -m experiment=acdc_small dataset.root="$root" labeled_cases=70 seed=0,1,2 method=supervised "$@"
ssl4seg-report outputs/acdc --classes

#!/bin/sh
# What unlabelled images are worth with 3, 7 and 14 labelled patients of ACDC, for a CPU: 2,000 steps of 6 + 6 slices of 128 x 128.
#   scripts/acdc_medium.sh DATA/ACDC [KEY=VALUE ...]
# The same command goes on where an earlier call stopped.
root=${1:?the folder of ACDC}; shift
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=3 method=supervised,uamt,unimatch,bcp,ad_mt "$@"
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=7 \
  method=supervised,mean_teacher,uamt,cps,urpc,fixmatch,unimatch,bcp,ad_mt,mc_net "$@"
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=14 \
  method=supervised,mean_teacher,uamt,ict,entropy_minimization,urpc,dan "$@"
# Two more seeds of supervised and of the four best with 7 patients
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=7 seed=1,2 \
  method=supervised,bcp,unimatch,fixmatch,cps "$@"
# What three times as many steps are worth, and batch norms whose statistics are taken anew without dropout
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=7 tag=medium_6000 iterations=6000 eval_every=1200 \
  method=supervised,bcp "$@"
for batches in 0 30; do
  ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=3 tag=medium_bn$batches select=last precise_bn=$batches \
    method=uamt,unimatch,bcp "$@"
  ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=7 tag=medium_bn$batches select=last precise_bn=$batches \
    method=supervised,mean_teacher,uamt,cps,urpc,fixmatch,unimatch,bcp,ad_mt,mc_net "$@"
  ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=14 tag=medium_bn$batches select=last precise_bn=$batches \
    method=supervised,mean_teacher,uamt,ict,entropy_minimization,urpc,dan "$@"
done
ssl4seg-train -m experiment=acdc_medium dataset.root="$root" labeled_cases=70 method=supervised "$@"
ssl4seg-report outputs/acdc

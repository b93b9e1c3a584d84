#!/bin/sh
# The article's table: ACDC, 14 patients (19 %), seven methods, the common recipe of 30,000 steps, three seeds. For a GPU.
#   scripts/acdc_article.sh DATA/ACDC [KEY=VALUE ...]        iterations=10000 seed=0 for a third of it, one seed
# The same command goes on where an earlier call stopped.
root=${1:?the folder of ACDC}; shift
ssl4seg-train -m experiment=acdc_ssl4mis dataset.root="$root" labeled_cases=14 seed=0,1,2 \
  method=supervised,mean_teacher,uamt,ict,entropy_minimization,urpc,dan "$@"
ssl4seg-report outputs/acdc --classes

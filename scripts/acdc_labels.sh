#!/bin/sh
# Label efficiency: ACDC, every method with 3, 7 and 14 patients, and supervised with all 70, the upper bound. For a GPU.
#   scripts/acdc_labels.sh DATA/ACDC [KEY=VALUE ...]
# The same command goes on where an earlier call stopped. `hydra/launcher=joblib hydra.launcher.n_jobs=4`: four runs at once.
root=${1:?the folder of ACDC}; shift
ssl4seg-train -m experiment=acdc_ssl4mis dataset.root="$root" 'method=glob(*)' labeled_cases=3,7,14 seed=0,1,2 "$@"
ssl4seg-train -m experiment=acdc_ssl4mis dataset.root="$root" method=supervised labeled_cases=70 seed=0,1,2 "$@"
ssl4seg-report outputs/acdc

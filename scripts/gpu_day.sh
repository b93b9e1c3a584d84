#!/usr/bin/env bash
# All that is to be learnt of a GPU, in one call of at most MINUTES: checks, speed, then two published recipes to their end.
#   ACDC=DATA/ACDC LA=DATA/LA scripts/gpu_day.sh OUT
# A job leaves OUT/<job>.json (a training its run folder) and OUT/<job>.log; OUT/failed lists the jobs that failed in this call.
# The same command goes on where an earlier call stopped: what has its file is not done again, and a training is resumed.
# Without ACDC phantom slices of the same size stand in for it, and the trainings are short; without LA, volumes of 32 voxels.
#   MINUTES=25  of the whole call      STEPS=20  timed or checked in a job      DEVICE=cuda
#   ONLY=REGEX  jobs to do             SIDE=256  of the slices                  WORDS='KEY=VALUE ...'  added to every job
set -u
out=${1:?usage: scripts/gpu_day.sh OUT}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
scripts=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$scripts/../.venv/bin/python}
export PYTHONPATH="$scripts/..${PYTHONPATH:+:$PYTHONPATH}"
steps=${STEPS:-20} device=${DEVICE:-cuda} side=${SIDE:-256}
end=$((SECONDS + 60 * ${MINUTES:-25}))
read -ra more <<<"${WORDS:-}"
: >"$out/failed"

job() { # NAME COMMAND...: run it in the time that is left, unless its result is there
  local name=$1 left=$((end - SECONDS)) code
  shift
  [[ $name =~ ${ONLY:-.} ]] || return 0
  if [[ -s $out/$name.json ]]; then echo "$name: done before" && return 0; fi
  if ((left <= 0)); then echo "$name: no time left" && return 0; fi
  timeout --signal=TERM --kill-after=60 "$left" "$@" "device=$device" "${more[@]}" >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) echo "$name: $(tail -n 1 "$out/$name.log")" ;;
    124 | 130 | 137) echo "$name: stopped, the same command goes on" ;;
    *) echo "$name: FAILED, see $out/$name.log" | tee -a "$out/failed" ;;
  esac
}
check() { local name=$1; shift; job "$name" "$python" "$scripts/check_device.py" --steps "$steps" --json "$out/$name.json" "$@"; }
bench() { local name=$1; shift; job "$name" "$python" "$scripts/bench_step.py" --steps "$steps" --json "$out/$name.json" "$@"; }
train() { # NAME WORDS...
  local name=$1
  shift
  job "$name" "$python" -m ssl4seg.train "hydra.run.dir=$out/$name" "$@"
  if [[ -s $out/$name/results.json ]]; then cp "$out/$name/results.json" "$out/$name.json"; fi
}

small=(dataset.num_train=8 dataset.num_val=1 dataset.num_test=1 batch_size=4 unlabeled_batch_size=4 labeled_ratio=0.3)
if [[ -n ${ACDC:-} ]]; then
  slices=(experiment=acdc_ssl4mis "dataset.root=$ACDC" labeled_cases=7)
else
  slices=(dataset=phantom "dataset.image_size=$side" batch_size=12 unlabeled_batch_size=12 labeled_cases=7)
fi
if [[ -n ${LA:-} ]]; then
  volumes=(dataset=la "dataset.root=$LA" labeled_cases=8)
else
  volumes=(dataset=phantom_volume network=vnet labeled_ratio=0.1)
fi

for method in supervised cps fixmatch bcp dtc; do check "check_$method" "method=$method" "${small[@]}"; done
for method in unimatch bcp; do check "twice_$method" --twice "method=$method" "${small[@]}"; done
for method in supervised mean_teacher uamt unimatch bcp; do
  for precision in 32 bf16-mixed; do
    bench "acdc_${method}_$precision" "${slices[@]}" "method=$method" "precision=$precision"
  done
done
for mode in default reduce-overhead; do
  bench "acdc_unimatch_$mode" "${slices[@]}" method=unimatch precision=bf16-mixed "engine.compile=$mode"
done
for crop in ${CROPS:-321 801}; do
  bench "deeplab_$crop" dataset=phantom network=deeplabv3plus "dataset.image_size=$crop" method=unimatch \
    batch_size=4 unlabeled_batch_size=4 labeled_cases=7 precision=bf16-mixed
done
bench la_uamt "${volumes[@]}" method=uamt precision=bf16-mixed
if [[ -n ${ACDC:-} ]]; then
  train unimatch_7 experiment=acdc_unimatch "dataset.root=$ACDC" labeled_cases=7 &
  train bcp_3 experiment=acdc_bcp "dataset.root=$ACDC" labeled_cases=3 &
else
  train unimatch_7 method=unimatch "${small[@]}" "iterations=$steps" "eval_every=$steps" &
  train bcp_3 method=bcp "${small[@]}" "iterations=$steps" "eval_every=$steps" &
fi
wait
[[ ! -s $out/failed ]]

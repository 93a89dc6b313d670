#!/usr/bin/env bash
# Run what needs a GPU: the tests marked `cuda`, the calibration, the benchmarks on the device.
#
#     benchmarks/on_gpu.sh [STEP...]          # tests, calibrate, latency, estimates; all by default
#     OUT=folder benchmarks/on_gpu.sh estimates
#
# Every step ends within $LIMIT seconds (540), for machines that are lent for short commands. The
# step `estimates` keeps what is done in $OUT/estimates_cuda.json: call it again, and it goes on.
# Pages are written to $OUT, benchmarks/results by default; to be committed, with the device's name,
# versions and date, which they hold. Needs torch with CUDA and `torchatlas[bench,zoo,test]`.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
out=${OUT:-benchmarks/results}
limit=${LIMIT:-540}
failed=0
mkdir -p "$out"

step() { # NAME COMMAND...
    local name=$1
    shift
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"
    local status=${PIPESTATUS[0]}
    if [ "$status" -ne 0 ]; then
        echo "== $name ended with $status" >&2
        failed=1
    fi
}

[ $# -gt 0 ] || set -- tests calibrate latency estimates
for wanted in "$@"; do
    case $wanted in
        tests | calibrate | latency | estimates) ;;
        *)
            echo "there is no step $wanted: choose tests, calibrate, latency or estimates" >&2
            exit 2
            ;;
    esac
done
python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
for wanted in "$@"; do
    case $wanted in
        tests)
            step cuda_tests python -m pytest -q -n 0 -m cuda tests
            ;;
        calibrate)
            step calibrate python -m torchatlas.cli calibrate --device cuda --out "$out/limits.json"
            ;;
        latency)
            step latency_cuda python benchmarks/latency.py --device cuda \
                --markdown "$out/latency_cuda.md"
            ;;
        estimates)
            known=()
            [ -f "$out/limits.json" ] && known=(--limits "$out/limits.json")
            step estimates_cuda python benchmarks/estimates.py --device cuda \
                --results "$out/estimates_cuda.json" --markdown "$out/estimates_cuda.md" "${known[@]}"
            ;;
    esac
done
exit $failed

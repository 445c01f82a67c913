#!/usr/bin/env bash
# Checks and measures the CUDA kernels on a CUDA machine without network, in under ten minutes.
#
# usage, from the root of a checkout:  benchmarks/gpu_check.sh [RESULTS_FOLDER]
#
# Needs: python3 with torch >= 2.10 (CUDA build), torchvision, pytest, hypothesis and the libraries that
# Detectron2 imports, in the interpreter or in .gpu-site/; mrcnn_plugin/_C.so and _C_cuda.so, built here or
# carried along. compute-sanitizer is used where it is found. PYTHON names another interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${1:-output/gpu_check}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD/.gpu-site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
summary=()
failed=0

# step NAME SECONDS COMMAND...: runs it with a time limit, its output into NAME.log.
step() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    echo "== $name (at most $limit s)"
    timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    case $status in
        0) summary+=("ok       $((SECONDS - start)) s  $name") ;;
        124 | 137) summary+=("TIMEOUT  $limit s  $name"); failed=1 ;;
        *) summary+=("FAILED   $((SECONDS - start)) s  $name (status $status)"); failed=1 ;;
    esac
    tail -n 25 "$out/$name.log"
}

skip() {
    echo "== $1: skipped, $2"
    summary+=("skipped  $1: $2")
    [ "${3:-}" = fatal ] && failed=1
    return 0
}

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
has() { "$python" -c "import $1" 2>/dev/null; }

step environment 40 "$python" - <<'PYTHON'
import torch
from mrcnn_plugin.ops import library

print("torch", torch.__version__, "CUDA", torch.version.cuda)
assert torch.cuda.is_available(), "torch sees no CUDA device"
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability())
print("native libraries (None: loaded):", library.STATUS)
assert all(why is None for why in library.STATUS.values())
PYTHON

step self_check 60 "$python" -m mrcnn_plugin.collect_env --check

if has pytest && has hypothesis; then
    step tests 200 "$python" -m pytest -q -p no:cacheprovider -m "cuda and not slow" tests/ops
    if [ -n "$sanitizer" ]; then
        # Small maps and few boxes: the sanitizer makes kernels some fifty times slower.
        for tool in memcheck racecheck; do
            step "sanitizer_$tool" 80 "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "$python" benchmarks/gpu_smoke.py
        done
    else
        skip sanitizer "compute-sanitizer was not found"
    fi
else
    skip tests "pytest or hypothesis is missing" fatal
fi

for name in roi_align postprocess; do
    if ! has detectron2 || ! has tabulate; then
        skip "benchmark_$name" "detectron2 or tabulate is missing" fatal
    elif [ -e "benchmarks/$name.py" ]; then
        step "benchmark_$name" 90 "$python" "benchmarks/$name.py" --device cuda --json "$out/$name.json"
    else
        skip "benchmark_$name" "benchmarks/$name.py does not exist"
    fi
done

# The figures as Markdown, ready for benchmarks/README.md.
step tables 30 "$python" - "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

sys.path.insert(0, "benchmarks")
import roi_align
from tabulate import tabulate

out = Path(sys.argv[1])
report = json.loads((out / "roi_align.json").read_text())
about = ", ".join(f"{key} {value}" for key, value in report["about"].items())
parts = [f"## RoIAlign on CUDA\n\n{about}\n", roi_align.table(report["rows"]), ""]
parts += [f"- {line}" for line in roi_align.summary(report["rows"])]
rows = json.loads((out / "postprocess.json").read_text())["rows"]
keys = ("section", "workload", "ours_ms", "peer_ms", "ratio", "check")
body = tabulate([[row[key] for key in keys] for row in rows], keys, tablefmt="github", floatfmt=".2f")
parts += ["", "## Masks, keypoints, targets on CUDA", "", body]
(out / "tables.md").write_text("\n".join(parts) + "\n")
print("written to", out / "tables.md")
PYTHON

echo
echo "== summary (logs and figures in $out)"
printf '%s\n' "${summary[@]}" | tee "$out/summary.txt"
exit "$failed"

#!/usr/bin/env bash
# The GPU tests, then W1 to W5 on the GPU, plain and compiled: JSON and what was printed go to a folder.
#
#     benchmarks/gpu.sh [FOLDER] [--quick | --tiny]    # FOLDER: results/gpu unless given
#
# A step that fails or takes longer than LIMIT seconds (1800) does not stop the others; the last line names it and the
# exit code is 1. Everything takes hours; `--quick` is what fits into a quarter of one: the tests, W1, wide rows of W2,
# few seeds of W4 and one preset of W3. `--tiny` takes the smallest sizes, to try the script itself; so does DEVICE=cpu
# without a GPU, and PYTHON with another interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/results/gpu}
mode=${2:-}
if [[ $# -gt 2 || $folder == -* || ! $mode =~ ^(--tiny|--quick)?$ ]]; then
    echo "usage: benchmarks/gpu.sh [FOLDER] [--quick | --tiny]" >&2
    exit 2
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$root"
python=${PYTHON:-$root/.venv/bin/python}
device=${DEVICE:-cuda}
failed=()

step() { # NAME COMMAND...
    local name=$1
    shift
    echo "== $name"
    timeout "${LIMIT:-1800}" "$@" 2>&1 | tee "$folder/$name.log" || failed+=("$name")
}

bench() { # NAME SCRIPT FLAGS...
    local name=$1 script=$2
    shift 2
    step "$name" "$python" -m "benchmarks.$script" --device "$device" --output "$folder/$name.json" "$@"
}

finish() {
    if ((${#failed[@]})); then
        echo "failed: ${failed[*]}" >&2
        exit 1
    fi
    echo "all done: $folder"
    exit 0
}

if [[ $mode == --tiny ]]; then
    size=(--tasks 2 --episodes 2 --horizon 10 --width 8 --repeats 1)
    wide=(--rows 64 --steps 10 --repeats 1)
    widest=(--rows 256 --steps 10 --repeats 1)
    result=(--presets navigation-fixed --seeds 1 --limit 1 --every 1 --tasks 2)
    growth=("${size[@]}" --quick --axes steps)
    many=(1 2)
    few=(1 2)
else
    size=()
    wide=(--rows 1 64 1024 16384)
    widest=(--rows 1048576 --steps 50 --repeats 3)
    result=(--limit 300)
    growth=(--quick)
    many=(1 8 64)
    few=(1 8)
fi

# those files alone: others need what a GPU machine may lack. `-W default`: torch warns of its own ways on a GPU
step tests "$python" -m pytest -q -m gpu -W default tests/test_gpu.py tests/test_envs_{benchmarks,wrappers}.py
if [[ $mode == --quick ]]; then
    bench meta_iteration meta_iteration --repeats 5 --only iteration compiled parts compiled-parts
    bench rollout rollout --rows 1024 65536 --only eager compiled by-hand --repeats 3
    bench seeds seeds --counts 1 8 --repeats 3
    for flags in "" --compile; do
        bench "time_to_result${flags#-}" time_to_result --presets navigation-fixed --seeds 1 --limit 60 $flags
    done
    finish
fi
bench meta_iteration meta_iteration "${size[@]}"
bench rollout rollout "${wide[@]}"
bench rollout-widest rollout "${widest[@]}" --only eager compiled by-hand
bench seeds seeds "${size[@]}" --counts "${many[@]}"
bench seeds-compiled seeds "${size[@]}" --counts "${few[@]}" --compile
bench growth growth "${growth[@]}"
bench growth-compiled growth "${growth[@]}" --compile
bench time_to_result time_to_result "${result[@]}"
bench time_to_result-compiled time_to_result "${result[@]}" --compile

finish

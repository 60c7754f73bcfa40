#!/usr/bin/env bash
# Everything that needs a GPU, in under 9 minutes on one H100 or H200: tests of the kernels and of
# eviction, benchmarks.kernels, benchmarks.end_to_end at the shapes of both R1 distills.
#
#   bash benchmarks/gpu.sh          in the root of a plain checkout, nothing installed
#
# Needs python3 with torch, triton, transformers, numba, msgspec, typer, rich, pytest,
# pytest-timeout and hypothesis, and uses pytest-xdist if it is there; grpc is not imported. Wheels
# in .whl/ are installed for this run first, which is how a machine without a registry gets what it
# lacks. For Python 3.12 on x86-64:
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 \
#     --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d .whl msgspec==0.22.0
#
# Every part has its own time limit; one that fails or overruns is reported and the rest goes on.
# Rows are appended to benchmarks/results/. They, the logs and the tests' report also go to the
# folder $OUT, if set, as they are made. Environment: PYTHON (python3), LIMIT (seconds for all,
# 525), SHAPES ("llama-8b qwen-7b"), END_TO_END (more options for benchmarks.end_to_end).
# Exit code: 0, 1 if a part failed, 2 if it could not start.
set -u -o pipefail

cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
limit=${LIMIT:-525}
out=${OUT:-$(mktemp -d)}
failed=()
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

left() { echo $((limit - SECONDS)); }

# part NAME SECONDS COMMAND...: runs it for at most that long, output to a log of that name too
part() {
  local name=$1 most=$2 started=$SECONDS status
  shift 2
  echo "== $name, at most $most s"
  if ((most < 10)); then
    status="not started, no time was left"
  else
    timeout -k 5 "$most" "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
  fi
  echo "== $name: $status after $((SECONDS - started)) s"
  [[ $status == 0 ]] || failed+=("$name ($status)")
}

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
wheels=(.whl/*.whl)
if [[ -e ${wheels[0]} ]]; then
  site=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "${wheels[@]}" || exit 2
  export PYTHONPATH="$site:$PYTHONPATH"
fi
"$python" - <<'PY' || exit 2
import importlib, sys
names = "torch triton transformers numba msgspec typer rich pytest pytest_timeout hypothesis"
lacking = []
for name in names.split():
    try:
        module = importlib.import_module(name)
        print(name, getattr(module, "__version__", ""), end="; ")
    except ImportError as error:
        lacking.append(f"{name}: {error}")
print()
if lacking:
    sys.exit(f"cannot start: {lacking}; put wheels into .whl/ (see the head of benchmarks/gpu.sh)")
import torch
if not torch.cuda.is_available():
    sys.exit("cannot start: torch sees no GPU")
print(torch.cuda.get_device_name(), torch.cuda.mem_get_info())
PY

# Versions there are not those of constraints.txt, so what they warn of is no failure.
side_by_side=()
"$python" -c "import xdist" 2>/dev/null && side_by_side=(-n 8)
part tests 150 "$python" -m pytest -q -m gpu -W default -p no:cacheprovider "${side_by_side[@]}" \
  --junitxml="$out/tests.xml" tests/kernels tests/engine

# Without a report, because the tests overran, the benchmark runs those of the kernels itself.
tested=()
[[ -e $out/tests.xml ]] && tested=(--tested "$out/tests.xml")
part kernels 180 "$python" -m benchmarks.kernels --device cuda --seconds 75 --stored "$out" \
  "${tested[@]}"

read -r -a shapes <<<"${SHAPES:-llama-8b qwen-7b}"
for index in "${!shapes[@]}"; do
  share=$(($(left) / (${#shapes[@]} - index)))
  # shellcheck disable=SC2086  # several options
  part "end_to_end_${shapes[index]}" "$share" "$python" -m benchmarks.end_to_end \
    --device cuda --shape "${shapes[index]}" --seconds $((share - 20)) --stored "$out" \
    ${END_TO_END:-}
done

mkdir -p benchmarks/results
for name in kernels end_to_end; do
  [[ -e $out/$name.jsonl ]] && cat "$out/$name.jsonl" >>"benchmarks/results/$name.jsonl"
done
echo "== done after $SECONDS s; logs and rows in $out"
for log in "$out"/*.log; do
  tail -n 1 "$log"
done
if ((${#failed[@]})); then
  echo "== failed: ${failed[*]}"
  exit 1
fi

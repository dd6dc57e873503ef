#!/usr/bin/env bash
# Run robustkit audit with the action's inputs, and tell the pipeline what came of it.
set -euo pipefail

if [[ "$OUT" == *[$'\n\r']* ]]; then
  echo "out: a line break cannot stand in a folder's name here" >&2
  exit 2
fi
options=(audit)
while IFS= read -r line; do
  line="${line%$'\r'}"
  [ -z "${line//[[:space:]]/}" ] || options+=("$line")
done <<< "$ARGUMENTS"
# last, where they hold: the arguments name no other folder or rules than the outputs
options+=("--out=$OUT")
sarif=""
if [ -n "$POLICY" ]; then
  sarif="$OUT/rules.sarif"
  options+=("--policy=$POLICY" "--junit=$OUT/junit.xml" "--sarif=$sarif")
fi

# an earlier report is put aside, so that only what this run writes is told as its own
report="$OUT/audit.json"
[ ! -e "$report" ] || mv -f -- "$report" "$report.before"
status=0
robustkit "${options[@]}" -- "$CHECKPOINT" || status=$?
if [ -e "$report" ]; then
  rm -f -- "$report.before"
else
  [ ! -e "$report.before" ] || mv -- "$report.before" "$report"
  if [ "$status" -le 1 ]; then
    echo "robustkit wrote no $report: the arguments ask for something else than an audit" >&2
    status=3
  fi
fi

{
  echo "status=$status"
  if [ "$status" -le 1 ]; then
    echo "sarif=$sarif"
    python - "$OUT/audit.json" << 'END'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    found = json.load(file)
survived = found["survived"]
print(f"verdict={found['verdict']['word']}")
print(f"robust-accuracy={'' if survived is None else survived['value']}")
END
  fi
} >> "${GITHUB_OUTPUT:-/dev/stdout}"

if [ "$status" = 1 ] && [ "$FAIL" = false ]; then
  status=0
fi
exit "$status"

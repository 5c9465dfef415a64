# size.sh MOE_RUN: stripped, moe-run stays under 3 MB.
set -euo pipefail
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$1"
bytes=$(stat -c %s "$stripped")
echo "moe-run: $bytes bytes stripped"
if [ "$bytes" -ge 3000000 ]; then
  echo "error: that is not under 3 MB"
  exit 1
fi

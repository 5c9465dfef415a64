# size.sh PROGRAM MEGABYTES: what is copied to where plans run stays small, stripped.
set -euo pipefail
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$1"
bytes=$(stat -c %s "$stripped")
echo "$(basename "$1"): $bytes bytes stripped"
if [ "$bytes" -ge "$2"000000 ]; then
  echo "error: that is not under $2 MB"
  exit 1
fi

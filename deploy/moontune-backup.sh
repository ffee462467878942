#!/bin/sh
# moontune-backup.sh FOLDER KEEP: a backup in a folder of FOLDER with the time in its name; the last
# KEEP stay. Only folders with such a name are ever removed, and whole ones only after a newer whole one
# is there: when backups fail, the old ones stay.
set -eu
cd "$1"
keep=$2
case $keep in
  '' | 0 | *[!0-9]*) echo "KEEP has to be a number above 0, not '$keep'." >&2; exit 2 ;;
esac

# moontune writes backup.json last: a folder without it was broken off. One runs at a time.
exec 9> .lock
flock -n 9 || { echo "Another backup runs." >&2; exit 1; }
names() { ls -1 | grep -E '^[0-9]{8}T[0-9]{6}Z$' || true; }
for name in $(names); do
  [ -e "$name/backup.json" ] || rm -r -- "$name"
done

moontune backup "$PWD/$(date -u +%Y%m%dT%H%M%SZ)"
for name in $(names | sort -r | tail -n +$((keep + 1))); do
  rm -- "$name/backup.json"
  rm -r -- "$name"
done

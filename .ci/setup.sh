#!/usr/bin/env bash
# Brings a checkout to where the node can run: system packages, Python environment, viewers. What is
# done already is not done again, so every make target calls this first.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
log=.setup/setup.log
mkdir -p .setup
# Two targets at one time must not install into the same environment.
exec 9>.setup/lock
flock 9
: >"$log"
exec 3>&2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: $python is missing or older than 3.11; name another with PYTHON=" >&2
  exit 1
}

# step TEXT COMMAND...: runs a command with its output in the log, and shows the log's end when it fails.
step() {
  local text=$1 start=$SECONDS
  shift
  if "$@" >>"$log" 2>&1; then
    [ $((SECONDS - start)) -lt 2 ] || echo "setup: $text (took $((SECONDS - start)) s)"
  else
    echo "setup: $text FAILED after $((SECONDS - start)) s; the end of $log:" >&2
    tail -n 25 "$log" >&2
    return 1
  fi
}

# What the environment was made from; it cannot be moved, so the place belongs to it.
fingerprint() {
  { cat pyproject.toml constraints.txt; "$python" -c 'import sys; print(sys.version)'; pwd; } |
    sha256sum
}

# Called in a condition, where a command that fails ends nothing by itself.
environment() {
  local prefix
  prefix=$(.venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null || true)
  if [ "$prefix" != "$PWD/.venv" ] ||
    [ "$(.venv/bin/python -V 2>&1)" != "$("$python" -V 2>&1)" ]; then
    rm -rf .venv
    "$python" -m venv .venv || return
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt -e '.[test]' &&
    .venv/bin/python -m pip check &&
    fingerprint >.setup/environment
}

step "system packages" orthanc/install.sh
if [ "$(fingerprint)" != "$(cat .setup/environment 2>/dev/null)" ] || ! .venv/bin/python -V >/dev/null 2>&1; then
  echo "setup: Python environment in .venv, about 2 GB: a few minutes"
  step "Python environment" environment
fi
# Without npm there are no viewers; the node says so on their pages and works all the same.
step "viewers (OHIF, NiiVue)" .venv/bin/python ohif-config/fetch.py ||
  echo "setup: going on without them" >&2

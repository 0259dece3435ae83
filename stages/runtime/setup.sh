#!/bin/sh
# Build .venv from requirements.lock, or do nothing when that is done. The Makefile calls it before every target.
#
#   sh stages/runtime/setup.sh [PYTHON]      PYTHON: the interpreter to use (default: the one of .venv, else python3)
#                                            NEED_GB in the environment: the free disk space asked for (default 9)
#
# Ends with status 1 and one line on stderr when it cannot; what pip and uv said is then in .cache/setup.log.
set -eu
asked=${1:-}
uv_pin='uv==0.13.8 --hash=sha256:e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984'  # the Linux x86-64 wheel
need_gb=${NEED_GB:-9}
log=.cache/setup.log
stamp=.venv/stamp

fail() {
    echo "error: $*" >&2
    exit 1
}

# The version and the real path of the interpreter behind $1; nothing when it does not run.
identify() {
    "$1" -c 'import os, sys; v = sys.version_info; print("%d.%d %s" % (v[0], v[1], os.path.realpath(sys.executable)))' 2>/dev/null || true
}

# .venv is of this lock, this script and this folder (its scripts hold the folder's path).
wanted=$(cat requirements.lock "$0" | sha256sum | cut -c1-64)" $PWD"
current=$(cat "$stamp" 2>/dev/null || true)
have=$(identify .venv/bin/python)
python=${asked:-python3}
want=$(identify "$python")
[ -n "$have" ] && [ "$current" = "$wanted" ] && { [ -z "$asked" ] || [ "$have" = "$want" ]; } && exit 0

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the locked environment is for Linux on x86-64; this is $(uname -sm)"
[ -z "$asked" ] && [ -n "$have" ] && want=$have
[ -n "$want" ] || fail "$python does not run: name a Python 3.11, 3.12 or 3.13, e.g. make reproduce PYTHON=/usr/bin/python3.11"
case $want in
    3.11\ * | 3.12\ * | 3.13\ *) ;;
    *) fail "$python is Python ${want%% *}; rarelens needs 3.11, 3.12 or 3.13: name one, e.g. make reproduce PYTHON=python3.11" ;;
esac

if [ "$have" != "$want" ]; then
    free_gb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free_gb" -ge "$need_gb" ] || fail "$free_gb GB free in $PWD; the environment needs $need_gb GB (NEED_GB=... sets another limit)"
    rm -rf .venv
    "$python" -m venv --without-pip .venv || fail "$python -m venv failed: install its venv module (Debian: python3-venv)"
fi

mkdir -p .cache
: > "$log"
offline() { fail "the packages of requirements.lock could not be fetched, and are not in uv's cache (no network?): see $log, then call make again"; }

# uv itself, pinned by its hash, in a folder of its own, where `uv pip sync` leaves it alone.
uv=.venv/uv/bin/uv
if [ "$(cat .venv/uv/pin 2>/dev/null || true)" != "$uv_pin" ]; then
    "$python" -m pip --version >> "$log" 2>&1 || fail "$python has no pip: install it (Debian: python3-pip)"
    rm -rf .venv/uv
    echo "$uv_pin" > .venv/uv.pin
    if "$python" -m pip install --quiet --no-input --retries 1 --timeout 30 --require-hashes --no-deps --only-binary :all: \
        --target .venv/uv -r .venv/uv.pin >> "$log" 2>&1; then
        mv .venv/uv.pin .venv/uv/pin
    else
        uv=$(command -v uv) || offline  # without network, a uv of the user's own will do
    fi
fi

# Online (some 3 GB when nothing is cached), then from uv's cache alone. On a terminal uv shows its progress there.
sync_venv() { "$uv" pip sync --python .venv/bin/python --require-hashes "$@" requirements.lock; }
if [ -t 2 ]; then
    sync_venv >&2 || sync_venv --offline >> "$log" 2>&1 || offline
else
    sync_venv >> "$log" 2>&1 || sync_venv --offline >> "$log" 2>&1 || offline
fi
echo "$wanted" > "$stamp"
echo "set up .venv with Python ${want%% *}" >&2

#!/usr/bin/env bash
# Programs that tests run and pip cannot install: PgBouncer, Chromium and its driver.
#
# As root on Debian they are installed. Elsewhere the tests that need them are left out,
# and this says which; with CI=true nothing may be left out, and it fails instead.
set -uo pipefail
PATH=$PATH:/usr/sbin

updated=
install() { # install PACKAGE...
    local log
    log=$(mktemp)
    if [ -z "$updated" ]; then
        echo "Installing $* with apt (more may follow), once"
        apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 update >"$log" 2>&1
        updated=yes # package lists of before may do as well
    fi
    if ! DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 install "$@" >>"$log" 2>&1; then
        tail -n 5 "$log" >&2
    fi
    rm -f "$log"
}

failed=
need() { # need TESTS PROGRAM[=PACKAGE]...
    local tests=$1 missing=() packages=() pair
    shift
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair##*=}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        install "${packages[@]}"
    fi
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair%%=*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "${CI:-}" = true ]; then
        echo "Error: ${missing[*]} missing; with CI=true no test may be left out" >&2
        failed=yes
    else
        echo "Left out, without ${missing[*]}: $tests" >&2
    fi
    echo "Hint: on Debian, as root: apt-get install ${packages[*]}" >&2
}

need "the tests through PgBouncer (tests/processes, benchmarks)" pgbouncer
need "the tests in a browser (examples, Django's admin)" \
    chromium chromedriver=chromium-driver
[ -z "$failed" ]

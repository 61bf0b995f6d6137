# Sourced by suites that are bash programs, after lib.sh: steps, and what they say of each other. A suite sets `scratch`.
# shellcheck shell=bash

passed=0
failed=0
step() { # NAME FUNCTION: a subshell, in which the first command that fails ends the step
    local code began=$EPOCHREALTIME
    # Not `if (…)`, nor `(…) || …`: both would switch `set -e` off inside.
    set +e
    (
        set -eE
        trap '[[ $BASH_COMMAND == return* ]] || echo "        line $LINENO: $BASH_COMMAND" >&2' ERR
        "$2"
    )
    code=$?
    set -e
    if [[ $code == 0 ]]; then
        passed=$((passed + 1))
        echo "ok      $1 ($(((${EPOCHREALTIME/./} - ${began/./}) / 1000)) ms)"
    else
        failed=$((failed + 1))
        echo "FAILED  $1"
    fi
}

report_failure() {
    printf '        %s\n' "$@" >&2
    return 1
}

same() { # EXPECTED ACTUAL
    [[ "$1" == "$2" ]] || report_failure "expected \"$1\", got \"$2\""
}

holds() { # FILTER: of jq, on stdin
    local json
    json="$(cat)"
    jq --exit-status "$1" <<<"$json" >/dev/null || report_failure "not so: $1" "in: $json"
}

lines_include() { # LINE…: each is one of stdin's
    local text line
    text="$(cat)"
    for line in "$@"; do
        grep -Fxq -- "$line" <<<"$text" || report_failure "no line \"$line\" in:" "$text"
    done
}

exits() { # CODE COMMAND…: what it prints is then in $scratch/out and $scratch/err
    local wanted="$1" code=0
    shift
    "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
    [[ $code == "$wanted" ]] || report_failure "exit code $code, expected $wanted: $*" "$(cat "$scratch/out" "$scratch/err")"
}

hears() { # TEXT: in a line of stdin, each within 5 s
    local line
    while read -r -t 5 line; do
        [[ "$line" != *"$1"* ]] || return 0
    done
    report_failure "never heard \"$1\""
}

sum() { # the suite's last line, and its exit code
    echo "$passed passed, $failed failed"
    [[ $failed == 0 ]]
}

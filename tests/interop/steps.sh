# Sourced after lib.sh by suites that are bash programs. Defines `step` and assertions. A suite sets `scratch` to a directory.
# shellcheck shell=bash

passed=0
failed=0
step() { # NAME FUNCTION: runs the function in a subshell; the first command that fails ends it
    local code began=$EPOCHREALTIME
    # Neither `if (…)` nor `(…) || …`: both would disable `set -e` in the subshell.
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

holds() { # FILTER: jq evaluates it on stdin
    local json
    json="$(cat)"
    jq --exit-status "$1" <<<"$json" >/dev/null || report_failure "the condition is false: $1" "for: $json"
}

lines_include() { # LINE…: each must be a line of stdin
    local text line
    text="$(cat)"
    for line in "$@"; do
        grep -Fxq -- "$line" <<<"$text" || report_failure "no line \"$line\" in:" "$text"
    done
}

exits() { # CODE COMMAND…: writes the output of the command to $scratch/out and $scratch/err
    local wanted="$1" code=0
    shift
    "$@" >"$scratch/out" 2>"$scratch/err" || code=$?
    [[ $code == "$wanted" ]] || report_failure "exit code $code, expected $wanted: $*" "$(cat "$scratch/out" "$scratch/err")"
}

reads_line() { # TEXT: reads stdin up to a line with the text; waits at most 5 s for each line
    local line
    while read -r -t 5 line; do
        [[ "$line" != *"$1"* ]] || return 0
    done
    report_failure "no line with \"$1\""
}

print_summary() { # prints the last line of the suite; fails if a step failed
    echo "$passed passed, $failed failed"
    [[ $failed == 0 ]]
}

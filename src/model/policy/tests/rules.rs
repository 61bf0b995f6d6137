//! Message of each rule.

use super::message;

/// Documents, in which `; ` stands for the end of a line, and their errors.
const RULES: &[(&str, &str)] = &[
    (r#"timeot = "5s""#, "timeot is not a field of a policy: write timeout"),
    (
        "timeout = 5",
        r#"timeout "5" is a number, not a text: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"timeout = "5""#,
        r#"timeout "5" is not a duration: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"timeout = "9ms""#,
        r#"timeout "9ms" is out of range: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"timeout = "25h""#,
        r#"timeout "25h" is out of range: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"timeout = "10ms 1us""#,
        r#"timeout "10ms 1us" has a fraction of a millisecond: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    (r#"lb = "least_reqest""#, r#"lb "least_reqest" is not a value of this field: write least_request"#),
    (
        r#"lb = "x""#,
        r#"lb "x" is not a value of this field: write one of round_robin, least_request, ring_hash, weighted"#,
    ),
    ("shed = 101", r#"shed "101" is out of range: write 0 to 100"#),
    ("shed = -1", r#"shed "-1" is out of range: write 0 to 100"#),
    ("shed = 1.5", r#"shed "1.5" is not a whole number: write 0 to 100"#),
    ("shed = nan", r#"shed "NaN" is not a whole number: write 0 to 100"#),
    (r#"shed = "1""#, r#"shed "1" is a text, not a number: write 0 to 100"#),
    ("max_requests = 4294967296", r#"max_requests "4294967296" is out of range: write 0 to 4294967295"#),
    ("retry = 2", r#"retry "2" is a number, not a table: write { attempts = 2 }, or { attempts = 0 } for no retries"#),
    ("retry = {}", "retry.attempts is missing: write 0 to 4 further attempts"),
    ("retry = { attempts = 5 }", r#"retry.attempts "5" is out of range: write 0 to 4"#),
    (
        "retry = { attempts = 1, on = [] }",
        r#"retry.on is empty: name a status code, or leave the field out for ["unavailable"]"#,
    ),
    (
        r#"retry = { attempts = 1, on = ["unavalable"] }"#,
        r#"retry.on[0] "unavalable" is not a status code that clients can retry: write unavailable"#,
    ),
    (
        r#"retry = { attempts = 1, on = ["x"] }"#,
        r#"retry.on[0] "x" is not a status code that clients can retry: write cancelled, deadline-exceeded, internal, resource-exhausted or unavailable"#,
    ),
    (
        "retry = { attempts = 1, on = [[]] }",
        "retry.on[0] is a list, not a text: write cancelled, deadline-exceeded, internal, resource-exhausted or unavailable",
    ),
    (
        r#"retry = { attempts = 1, on = "internal" }"#,
        r#"retry.on "internal" is a text, not a list: write a list of status codes, such as ["unavailable"]"#,
    ),
    (
        r#"retry = { attempts = 1, backoff = "0s" }"#,
        r#"retry.backoff "0s" is out of range: write "1ms" to "1m" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"retry = { attempts = 1, backoff = "61s" }"#,
        r#"retry.backoff "61s" is out of range: write "1ms" to "1m" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"retry = { attempts = 1, max_backoff = "10ms" }"#,
        r#"retry.max_backoff "10ms" is shorter than backoff, which is 25ms: write at least the backoff"#,
    ),
    (
        "retry = { attempts = 1, budget = 1 }",
        "retry.budget is not a field of a policy: the fields are attempts, on, backoff, max_backoff",
    ),
    (
        r#"outlier = "of""#,
        r#"outlier "of" is not a value of this field: write "off", "default", or a table such as { failure_percent = 50 }"#,
    ),
    (
        "outlier = true",
        r#"outlier "true" is a boolean, not a table: write "off", "default", or a table such as { failure_percent = 50 }"#,
    ),
    ("outlier = { host = 1 }", "outlier.host is not a field of a policy: write hosts"),
    ("outlier = { failure_percent = 0 }", r#"outlier.failure_percent "0" is out of range: write 1 to 99"#),
    ("outlier = { hosts = 0 }", r#"outlier.hosts "0" is out of range: write 1 to 10000"#),
    ("outlier = { calls = 0 }", r#"outlier.calls "0" is out of range: write 1 to 1000000"#),
    (
        r#"outlier = { interval = "1ms" }"#,
        r#"outlier.interval "1ms" is out of range: write "100ms" to "1h" in whole milliseconds, such as "5s""#,
    ),
    (
        r#"outlier = { eject = "0s" }"#,
        r#"outlier.eject "0s" is out of range: write "100ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    ("outlier = { max_percent = 101 }", r#"outlier.max_percent "101" is out of range: write 1 to 100"#),
    (r#"weights = "responsetime""#, r#"weights "responsetime" is not a value of this field: write response_time"#),
    (
        r#"slow_start = "100ms""#,
        r#"slow_start "100ms" is out of range: write "0s", or "1s" to "1h" in whole milliseconds, such as "5s""#,
    ),
    (r#"zone = "on""#, r#"zone "on" is not a value of this field: write one of off, prefer"#),
    (
        r#"subsets = { V2 = "id == a" }"#,
        r#"subsets.V2 "V2" is not the name of a subset: use 1 to 32 lower-case letters, digits and '-', such as "v2""#,
    ),
    (
        r#"subsets = { v2 = "" }"#,
        r#"subsets.v2 "" selects the whole service: write a filter over instances, such as '"v2" in tags'"#,
    ),
    (
        r#"subsets = { v2 = "idd == a" }"#,
        r#"subsets.v2 "idd == a" is invalid at column 1: unknown selector `idd` (did you mean `id`?); use one of id, tags, metadata, metadata.<key>, status, zone, weight"#,
    ),
    (
        "subsets = { v2 = 3 }",
        r#"subsets.v2 "3" is a number, not a text: write a filter over instances, such as '"v2" in tags'"#,
    ),
    (
        "subsets = []",
        r#"subsets is a list, not a table: write a filter for each name, such as { v2 = '"v2" in tags' }"#,
    ),
    (
        "default = { v1 = 100 }",
        r#"default.v1 "100" is the percentage of a subset that does not exist: add it to subsets"#,
    ),
    (
        r#"subsets = { v1 = "id == a" }; default = { v1 = 99 }"#,
        "default sums to 99: change the percentages so that they sum to 100",
    ),
    (
        r#"subsets = { v1 = "id == a", v2 = "id == b" }; default = { v1 = 99, v2 = 2 }"#,
        "default sums to 101: change the percentages so that they sum to 100",
    ),
    (
        r#"subsets = { v1 = "id == a" }; default = { v1 = 0 }"#,
        r#"default.v1 "0" is no share of the calls: write 1 to 100, or leave the subset out"#,
    ),
    (r#"subsets = { v1 = "id == a" }; default = { v1 = 101 }"#, r#"default.v1 "101" is out of range: write 1 to 100"#),
    (
        r#"subsets = { v1 = "id == a" }; default = { v1 = 99.5 }"#,
        r#"default.v1 "99.5" is not a whole number: write 1 to 100"#,
    ),
    (
        r#"subsets = { v1 = "id == a" }; default = {}"#,
        "default is empty: name a subset, or leave the field out for the whole service",
    ),
    (
        r#"subsets = { stable = "id == a" }; default = { stabel = 100 }"#,
        r#"default.stabel "100" is the percentage of a subset that does not exist: write stable"#,
    ),
    (
        r#"subsets = { v1 = "id == a" }; default = { v1 = 100 }; empty = "drop""#,
        r#"empty "drop" is not a value of this field: write one of spill, fail"#,
    ),
    (r#"empty = "fail""#, r#"empty "fail" has no effect without default: remove it"#),
    (r#"fallback = ["payments"]"#, r#"fallback[0] "payments" is the service itself: remove it"#),
    (r#"fallback = ["a", "a"]"#, r#"fallback[1] "a" occurs twice: remove it"#),
    (
        r#"fallback = ["_x"]"#,
        r#"fallback[0] "_x" does not start with a letter or a digit: use 1 to 253 letters, digits, '.', '_' or '-', starting with a letter or digit"#,
    ),
    (r#"fallback = "a""#, r#"fallback "a" is a text, not a list: write names of services, such as ["payments-dr"]"#),
    ("fallback = [1]", r#"fallback[0] "1" is a number, not a text: write names of services, such as ["payments-dr"]"#),
    (r#"fallback = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]"#, "fallback has 9 entries: name at most 8 services"),
    (
        "route = [{}, {}]",
        "route[1] is never reached, because route[0] has no conditions and matches every call: move route[0] to the end, or give it a header or a method",
    ),
    (
        "route = [1]",
        r#"route[0] "1" is a number, not a table: write a table such as { header = { x-canary = "true" }, to = { v2 = 100 } }"#,
    ),
    (
        "route = {}",
        r#"route is a table, not a list: write a table such as { header = { x-canary = "true" }, to = { v2 = 100 } }"#,
    ),
    ("route = [{ too = { v1 = 100 } }]", "route[0].too is not a field of a policy: write to"),
    (
        r#"route = [{ method = "/a/b" }, { to = { v1 = 100 } }]"#,
        r#"route[1].to.v1 "100" is the percentage of a subset that does not exist: add it to subsets"#,
    ),
    (
        r#"route = [{ timeout = "1ms" }]"#,
        r#"route[0].timeout "1ms" is out of range: write "0s", or "10ms" to "1day" in whole milliseconds, such as "5s""#,
    ),
    ("route = [{ retry = { attempts = 9 } }]", r#"route[0].retry.attempts "9" is out of range: write 0 to 4"#),
    (
        r#"subsets = { v1 = "id == a" }; default = { v1 = 100 }; route = [{}]"#,
        "default has no effect, because route[0] has no conditions and matches every call: remove it, or route[0]",
    ),
    (
        r#"route = [{ header = "x" }]"#,
        r#"route[0].header "x" is a text, not a table: write a value for each name, such as { x-canary = "true" }"#,
    ),
    (
        r#"route = [{ header = { x-Canary = "a" } }]"#,
        r#"route[0].header.x-Canary "x-Canary" has upper-case letters: write x-canary"#,
    ),
    (
        r#"route = [{ header = { x-bin = "a" } }]"#,
        r#"route[0].header.x-bin "x-bin" is a binary header, which clients do not match: use another header"#,
    ),
    (
        r#"route = [{ header = { ":path" = "a" } }]"#,
        r#"route[0].header.":path" ":path" is a pseudo-header, which clients do not match: use method, or another header"#,
    ),
    (
        r#"route = [{ header = { host = "a" } }]"#,
        r#"route[0].header.host "host" is a header of the protocol, which clients do not match: use another header"#,
    ),
    (
        r#"route = [{ header = { te = "a" } }]"#,
        r#"route[0].header.te "te" is a header of the protocol, which clients do not match: use another header"#,
    ),
    (
        r#"route = [{ header = { grpc-timeout = "a" } }]"#,
        r#"route[0].header.grpc-timeout "grpc-timeout" is a header of the protocol, which clients do not match: use another header"#,
    ),
    (
        r#"route = [{ header = { x-callboard-warm = "a" } }]"#,
        r#"route[0].header.x-callboard-warm "x-callboard-warm" is a header of the registry: use another header"#,
    ),
    (
        r#"route = [{ header = { "x y" = "a" } }]"#,
        r#"route[0].header."x y" "x y" has an invalid character: use lower-case letters, digits, '-', '_' or '.'"#,
    ),
    (
        r#"route = [{ header = { "" = "a" } }]"#,
        r#"route[0].header."" "" is no name of a header: use 1 to 64 characters"#,
    ),
    (
        "route = [{ header = { x = true } }]",
        r#"route[0].header.x "true" is a boolean, not a text: write "v" for the value v, "*" for any value, "!" for none, or "~re""#,
    ),
    (r#"route = [{ header = { x = "*a" } }]"#, r#"route[0].header.x "*a" has text after *: write =*a for this value"#),
    (r#"route = [{ header = { x = "!a" } }]"#, r#"route[0].header.x "!a" has text after !: write =!a for this value"#),
    (
        r#"route = [{ header = { x = "" } }]"#,
        r#"route[0].header.x "" is empty: write 1 to 256 printable ASCII characters without blanks around them"#,
    ),
    (
        r#"route = [{ header = { x = "= a" } }]"#,
        r#"route[0].header.x "= a" is no value that a header can have: write 1 to 256 printable ASCII characters without blanks around them"#,
    ),
    (
        r#"route = [{ header = { x = "é" } }]"#,
        r#"route[0].header.x "é" is no value that a header can have: write 1 to 256 printable ASCII characters without blanks around them"#,
    ),
    (
        r#"route = [{ header = { x = "~" } }]"#,
        r#"route[0].header.x "~" has no pattern: write a regular expression after ~"#,
    ),
    (
        r#"route = [{ method = "pay" }]"#,
        r#"route[0].method "pay" is no path of a method: write "/package.Service/Method", or "/package.Service/*" for all of its methods"#,
    ),
    (
        r#"route = [{ method = "/pay/" }]"#,
        r#"route[0].method "/pay/" is no path of a method: write "/package.Service/Method", or "/package.Service/*" for all of its methods"#,
    ),
    (
        r#"route = [{ method = "/pay/*x" }]"#,
        r#"route[0].method "/pay/*x" is no path of a method: write "/package.Service/Method", or "/package.Service/*" for all of its methods"#,
    ),
    (
        r#"route = [{ method = "/a/b" }, { method = "*" }]"#,
        r#"route[1].method "*" is no path of a method: write "/package.Service/Method", or "/package.Service/*" for all of its methods"#,
    ),
    (
        r#"route = [{ hash_header = "X-User" }]"#,
        r#"route[0].hash_header "X-User" has upper-case letters: write x-user"#,
    ),
    (
        "route = [{ hash_header = 1 }]",
        r#"route[0].hash_header "1" is a number, not a text: write the name of a header, such as "x-user""#,
    ),
    (r#"route = [{ empty = "spill" }]"#, r#"route[0].empty "spill" has no effect without to: remove it"#),
];

#[test]
fn each_rule_has_its_message() {
    for (text, expected) in RULES {
        assert_eq!(message(&text.replace("; ", "\n")), *expected, "{text}");
    }
}

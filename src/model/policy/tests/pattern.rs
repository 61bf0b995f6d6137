//! Tests of regular expressions for headers.

use proptest::prelude::*;

use super::super::header_pattern::{compile, validate};

#[test]
fn permitted_pattern_matches_whole_values() {
    for (pattern, yes, no) in [
        ("v[12]", "v2", "v2x"),
        ("(stable|canary)", "canary", "canary2"),
        ("(?:eu|us)-\\d{1,2}", "eu-12", "eu-123"),
        ("^a+$", "aaa", "b"),
        ("[^,]*", "a b", "a,b"),
        ("[a-z0-9_.-]+", "a.b-c", "A"),
        ("[\\w\\-]{2,}", "a-", "a"),
        ("\\S \\D\\W\\s", "x y- ", "x 1- "),
        ("\\.\\*\\[\\]\\{\\}\\(\\)\\|\\\\", ".*[]{}()|\\", "a"),
        ("((a{2}){5}){10}", "aaaa".repeat(25).as_str(), "a"),
        ("a/b=c#d&e~f,\"'<>!%@:;-", "a/b=c#d&e~f,\"'<>!%@:;-", ""),
    ] {
        assert_eq!(validate(pattern), Ok(()), "{pattern}");
        let regex = compile(pattern).unwrap();
        assert!(regex.is_match(yes) && !regex.is_match(no), "{pattern}");
    }
}

/// Patterns with values that they match and values that they do not. The suites of third-party clients read the same table with the
/// libraries of their languages.
const TABLE: &str = include_str!("../../../../tests/interop/header-patterns.tsv");

#[test]
fn patterns_of_the_table_match_as_they_do_in_other_languages() {
    let mut lines = 0;
    for line in TABLE.lines() {
        let [expected, value, pattern] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line:?} has other columns")
        };
        assert_eq!(validate(pattern), Ok(()), "{pattern}");
        assert_eq!(compile(pattern).unwrap().is_match(value), expected == "match", "{pattern} on {value:?}");
        lines += 1;
    }
    assert!(lines > 500, "{lines} lines");
}

#[test]
fn pattern_beyond_the_common_language_is_rejected() {
    for (pattern, problem) in [
        ("", "no pattern"),
        (&"a".repeat(129), "a pattern of 129 bytes"),
        ("ü", "'ü'"),
        ("a\tb", "'\\t'"),
        ("a|b", "alternatives without a group at column 2"),
        ("(a|)", "an empty alternative at column 4"),
        ("()", "an empty alternative"),
        ("a)", "a ) without a ("),
        ("(a", "the end of a group without )"),
        ("(?i)a", "a special group"),
        ("(?P<x>a)", "a special group"),
        ("(?=a)", "a special group"),
        ("(?<!a)b", "a special group"),
        ("*a", "a repetition of nothing"),
        ("(+)", "a repetition of nothing"),
        ("a*?", "a repetition of a repetition"),
        ("a*+", "a repetition of a repetition"),
        ("a{2}{3}", "a repetition of a repetition"),
        ("^*a", "a repetition of an anchor"),
        ("a{", "an invalid count"),
        ("a{,3}", "an invalid count"),
        ("a{3,2}", "an invalid count"),
        ("a{ 2}", "an invalid count"),
        ("a{99999999999}", "an invalid count"),
        ("a{101}", "more than 100 repetitions"),
        ("((a{10}){10}){2}", "more than 100 repetitions"),
        ("a}", "a bracket without its counterpart"),
        ("a]", "a bracket without its counterpart"),
        ("\\", "an escape"),
        ("\\1", "an escape"),
        ("\\bx", "an escape"),
        ("\\pL", "an escape"),
        ("\\Qa\\E", "an escape"),
        ("\\x41", "an escape"),
        ("\\<a", "an escape"),
        ("[a", "the end of a class without ]"),
        ("[]", "an operator in a class"),
        ("[]a]", "an operator in a class"),
        ("[[:alpha:]]", "an operator in a class"),
        ("[a&&b]", "an operator in a class"),
        ("[a~~b]", "an operator in a class"),
        ("[a--b]", "a hyphen in a class"),
        ("[--a]", "a hyphen in a class"),
        ("[+--]", "a hyphen in a class"),
        ("[a-b--]", "a hyphen in a class"),
        ("[a-c-e]", "a hyphen in a class"),
        ("[z-a]", "an invalid range"),
        ("[a-\\d]", "an invalid range"),
    ] {
        let (found, hint) = validate(pattern).expect_err(pattern);
        assert!(found.contains(problem) && !hint.is_empty(), "{pattern}: {found}: {hint}");
    }
}

proptest! {
    #[test]
    fn accepted_pattern_compiles(pattern in "[ab0*+?{},|()\\[\\]\\\\.^$&~dDpw:<-]{1,20}") {
        if validate(&pattern).is_ok() {
            prop_assert!(compile(&pattern).is_ok());
        }
    }
}

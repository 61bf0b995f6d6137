use serde_json::json;

use super::*;
use crate::cli::policy::tests::fields;

/// Document with every kind of value.
fn whole() -> PolicyFields {
    fields(json!({
        "lb": "least_request", "timeout": "5s", "max_requests": 100,
        "retry": {"attempts": 2, "on": ["unavailable", "cancelled"]}, "outlier": {},
        "subsets": {"v1": "\"v1\" in tags", "v2": "metadata[\"version\"] == '2'"}, "default": {"v1": 90, "v2": 10},
        "fallback": ["payments-dr"],
        "route": [
            {"header": {"x-canary": "true", "x-\u{e9}": "~a\\.b"}, "to": {"v2": 100}},
            {"method": "/pay.v1.Payments/*", "to": {"v2": 100}, "timeout": "30s", "retry": {"attempts": 0}},
        ],
    }))
}

fn error(text: &str) -> String {
    format!("{:#}", PolicyFile::parse(text).unwrap_err())
}

#[test]
fn printed_toml_and_json_are_read_as_the_same_document() {
    let printed = whole().to_toml(&BTreeMap::new());
    assert_eq!(PolicyFile::parse(&printed).unwrap(), PolicyFile::One(whole()), "{printed}");
    let printed = serde_json::to_string(&whole()).unwrap();
    assert_eq!(PolicyFile::parse(&printed).unwrap(), PolicyFile::One(whole()), "{printed}");
    assert_eq!(PolicyFile::parse("").unwrap(), PolicyFile::One(PolicyFields::default()));
}

#[test]
fn toml_has_one_line_for_a_field_and_tables_for_routes() {
    let comments = BTreeMap::from([("timeout".to_owned(), "from the defaults".to_owned())]);
    let printed = whole().to_toml(&comments);
    let expected = r#"lb = "least_request"
timeout = "5s"  # from the defaults
max_requests = 100
retry = { attempts = 2, on = ["unavailable", "cancelled"] }
outlier = {}
"#;
    assert!(printed.starts_with(expected), "{printed}");
    let expected = r#"default = { v1 = 90, v2 = 10 }
fallback = ["payments-dr"]

[[route]]
header = { x-canary = "true", "x-é" = '~a\.b' }
to = { v2 = 100 }

[[route]]
method = "/pay.v1.Payments/*"
to = { v2 = 100 }
timeout = "30s"
retry = { attempts = 0 }
"#;
    assert!(printed.ends_with(expected), "{printed}");
    assert!(printed.contains(r#"subsets = { v1 = '"v1" in tags', v2 = "#), "{printed}");
}

#[test]
fn file_with_several_policies_has_the_defaults_first() {
    let text = "[service.web]\nlb = \"ring_hash\"\n[service.\"a.b\".retry]\nattempts = 1\n[defaults]\nshed = 0\n";
    let service = |name: &str| PolicyTarget::Service(name.to_owned());
    let expected = vec![
        (PolicyTarget::Defaults, fields(json!({"shed": 0}))),
        (service("a.b"), fields(json!({"retry": {"attempts": 1}}))),
        (service("web"), fields(json!({"lb": "ring_hash"}))),
    ];
    assert_eq!(PolicyFile::parse(text).unwrap().several().unwrap(), expected);
    let file = PolicyFile::parse(r#"{"defaults": {"shed": 0}}"#).unwrap();
    assert!(file.one(&PolicyTarget::Defaults).unwrap_err().to_string().contains("callboard policy apply --file"));
    let file = PolicyFile::parse("lb = \"ring_hash\"").unwrap();
    assert!(file.several().unwrap_err().to_string().contains("callboard policy set SERVICE --file"));
}

#[test]
fn error_in_a_file_names_the_line_or_the_field() {
    for (text, part) in [
        ("lb = \"x\"\ntimeout = 5s\n", "line 2: "),
        ("{\"lb\": }", "invalid JSON: expected value at line 1 column 8"),
        ("[retry]\non = [2026-01-01]", "`retry.on[0]` is the date 2026-01-01"),
        ("shed = inf", "`shed` is inf; write a finite number"),
        ("service = \"web\"", "`service` is not a table"),
        ("defaults = 1", "`defaults` is 1, which is not a table; write [defaults]"),
        ("[service]\nweb = true", "`service.web` is true, which is not a table"),
        ("lb = \"x\"\n[service.web]\n", "`lb` is in no table"),
        ("{\"timeout\": \"5s\", \"timeout\": \"6s\"}", "duplicate entry with key \"timeout\" at line 1"),
        ("{\"retry\": {\"on\": [], \"on\": []}}", "duplicate entry with key \"on\""),
        ("[]", "the JSON is no object"),
        ("null\n", "the JSON is no object"),
        ("[service.my.svc]\nshed = 1", "write [service.\"my.svc\"]"),
        ("[service.\"\"]\nshed = 1", "has no name: name a service, or write [defaults]"),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
    let deep = format!("lb = {}1{}", "[".repeat(20), "]".repeat(20));
    assert!(error(&deep).contains("more than 16 tables and lists"), "{}", error(&deep));
}

#[test]
fn file_that_sets_no_field_is_an_error() {
    let web = PolicyTarget::of("web".to_owned());
    for text in ["", "# a comment\n", "{}", "route = []", "subsets = {}\nfallback = []"] {
        let error = PolicyFile::parse(text).unwrap().one(&web).unwrap_err().to_string();
        assert_eq!(
            error, "the file sets no field; remove the policy of web with `callboard policy unset web`",
            "{text}"
        );
    }
    for (text, part) in [
        ("[service.web]", "the table of the policy of web sets no field"),
        ("[defaults]\n[service.web]\nshed = 0", "`callboard policy unset --defaults`"),
        ("[service]", "the file has no policy"),
    ] {
        let error = PolicyFile::parse(text).unwrap().several().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(PolicyFile::parse("outlier = {}").unwrap().one(&web).is_ok());
}

#[test]
fn file_that_cannot_be_read_is_a_usage_error() {
    let error = PolicyFile::read("/no/such/file").unwrap_err();
    assert!(matches!(error, CliError::Usage(_)), "{error:?}");
    assert!(error.to_string().starts_with("cannot read /no/such/file: "), "{error}");
}

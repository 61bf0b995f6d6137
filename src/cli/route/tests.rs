use clap::Parser;
use serde_json::json;

use super::*;
use crate::cli::policy::tests::fields;

#[derive(Debug, Parser)]
struct TestCommand {
    #[command(flatten)]
    args: RouteArgs,
}

fn parse(words: &[&str]) -> Result<RouteCommand, clap::Error> {
    let words = ["route"].iter().chain(words).copied();
    TestCommand::try_parse_from(words).map(|command| command.args.command)
}

/// Document with these routes, each of which leads to a subset.
fn routed(subsets: &[&str]) -> PolicyFields {
    let routes: Vec<_> = subsets.iter().map(|subset| json!({"to": {*subset: 100}})).collect();
    fields(json!({"lb": "round_robin", "route": routes}))
}

#[test]
fn route_set_needs_a_split_or_a_match() {
    assert!(parse(&["set", "payments"]).is_err());
    let words = [
        "set",
        "payments",
        "--split",
        "v1=90,v2=10",
        "--match",
        "header:x-canary=true→v2",
        "--match",
        "method:/a/*->v1",
    ];
    let RouteCommand::Set(args) = parse(&words).unwrap() else { panic!("not `set`") };
    assert_eq!(split::to_value(&args.split.unwrap()), json!({"v1": 90, "v2": 10}));
    let expected =
        [json!({"header": {"x-canary": "true"}, "to": {"v2": 100}}), json!({"method": "/a/*", "to": {"v1": 100}})];
    assert_eq!(routes(&args.matches, None), expected);
    let error = parse(&["set", "payments", "--match", "x→v2"]).unwrap_err().to_string();
    assert!(error.contains("`x` is no condition"), "{error}");
}

#[test]
fn route_add_takes_other_fields_of_the_route() {
    let line = "add payments --match header:a=1→v2 --timeout 30s --empty fail --at 0 --retries 2 --retry-on internal";
    let words: Vec<_> = line.split(' ').collect();
    let RouteCommand::Add(args) = parse(&words).unwrap() else { panic!("not `add`") };
    let retry = json!({"attempts": 2, "on": ["internal"]});
    let fields = json!({"header": {"a": "1"}, "to": {"v2": 100}, "timeout": "30s", "empty": "fail", "retry": retry});
    let expected = [fields];
    assert_eq!(routes(&args.matches, Some(&args.options)), expected);
    assert_eq!(args.at, Some(0));
}

#[test]
fn routes_are_inserted_and_removed_by_index() {
    let mut document = routed(&["v1", "v2"]);
    let new = || vec![json!({"to": {"v3": 100}})];
    insert(&mut document, "web", new(), Some(1)).unwrap();
    assert_eq!(document, routed(&["v1", "v3", "v2"]));
    remove(&mut document, "web", 0).unwrap();
    insert(&mut document, "web", new(), None).unwrap();
    assert_eq!(document, routed(&["v3", "v2", "v3"]));
    let error = insert(&mut document, "web", new(), Some(4)).unwrap_err().to_string();
    assert!(error.contains("web has no route 4, because it has 3 routes, counted from 0"), "{error}");
    for _ in 0..3 {
        remove(&mut document, "web", 0).unwrap();
    }
    assert_eq!(document, fields(json!({"lb": "round_robin"})));
    let error = remove(&mut document, "web", 0).unwrap_err();
    assert!(matches!(error, CliError::NotFound(_)), "{error:?}");
}

#[test]
fn shift_changes_the_default_split_only() {
    let subsets = json!({"v1": "\"v1\" in tags", "v2": "\"v2\" in tags"});
    let mut document = fields(json!({"subsets": subsets, "default": {"v1": 90, "v2": 10}, "shed": 1}));
    assert_eq!(shift(&mut document, "web", &Percentages::from([("v2".to_owned(), 100)])).unwrap(), None);
    assert_eq!(document, fields(json!({"subsets": subsets, "default": {"v2": 100}, "shed": 1})));
}

#[test]
fn list_ends_with_the_default_split() {
    let document = fields(json!({
        "default": {"v1": 90, "v2": 10}, "empty": "fail",
        "route": [{"header": {"x-canary": "true"}, "to": {"v2": 100}, "timeout": "30s", "retry": {"attempts": 1}}],
    }));
    let cells: Vec<_> = views(&document).iter().map(Printable::cells).collect();
    let expected = [
        ["0", "header:x-canary=true", "v2=100", "retry={ attempts = 1 } timeout=\"30s\""],
        ["default", "*", "v1=90,v2=10", "empty=\"fail\""],
    ];
    assert_eq!(cells, expected);
    let rows = views(&fields(json!({"route": [{"timeout": "1s"}]})));
    assert_eq!(rows[1].cells(), ["default", "*", "the whole service", "-"]);
    assert!(views(&fields(json!({"lb": "round_robin"}))).is_empty());
}

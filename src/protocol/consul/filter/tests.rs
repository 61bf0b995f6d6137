use serde_json::json;

use super::*;

fn matches(shown: &Json, filter: &str) -> bool {
    let filter = ConsulFilter::parse(Some(filter), &ENTRIES).unwrap_or_else(|error| panic!("{filter}: {error}"));
    filter.matches(shown)
}

fn error_of(filter: &str) -> String {
    ConsulFilter::parse(Some(filter), &ENTRIES).unwrap_err().to_string()
}

#[test]
fn filters_match_the_fields_of_the_response() {
    let entry = json!({
        "Node": {"Node": "n1", "Meta": null},
        "Service": {"Port": 81, "Tags": ["a", "b"], "Meta": {"k": "v"}, "TaggedAddresses": {"lan": {"Port": 1}}},
        "Checks": [{"Status": "passing", "Interval": "10s"}, {"Status": "critical", "Definition": {"Header": {"h": ["x"]}}}],
    });
    for yes in [
        "",
        "Service.Port == 81",
        "Service.Port == \"81\"",
        "a in Service.Tags",
        "Service.Meta.k == v",
        "Service.Meta[\"k\"] != w",
        "Checks.Status == critical",
        "Checks.Status == passing",
        "Checks.Status != passing",
        "Checks.Interval == \"10s\"",
        "x in Checks.Definition.Header.h",
        "Checks is not empty",
        "Service.TaggedAddresses.lan.Port == 1",
        "lan in Service.TaggedAddresses",
        "Node.Meta is empty",
        "Service.Kind == \"\"",
        "Service.EnableTagOverride == false",
    ] {
        assert!(matches(&entry, yes), "{yes}");
    }
    for no in [
        "Service.Port != 81",
        "c in Service.Tags",
        "Service.Tags is empty",
        "Checks.Status == warning",
        "Checks is empty",
        "Node.Node == n2",
        "Node.Node == N1",
        "wan in Service.TaggedAddresses",
    ] {
        assert!(!matches(&entry, no), "{no}");
    }
}

/// Results of go-bexpr 0.1.2, which Consul uses, for a key that the map lacks. They are the same without the map.
#[test]
fn absent_keys_are_evaluated_as_in_consul() {
    let clauses = [
        ("K == \"\"", false),
        ("K == x", false),
        ("K != x", true),
        ("x in K", false),
        ("K contains x", false),
        ("x not in K", true),
        ("K matches x", true),
        ("K not matches x", true),
        ("K is empty", true),
        ("K is not empty", false),
    ];
    for service in [json!({"Meta": {"other": "x"}}), json!({"Meta": {}}), json!({"Meta": null}), json!({})] {
        let entry = json!({"Node": {"Meta": null}, "Service": service});
        for (clause, expected) in clauses {
            for key in ["Service.Meta.absent", "Service.Meta[\"absent\"]", "Service.TaggedAddresses.absent.Address"] {
                let filter = clause.replace('K', key);
                assert_eq!(matches(&entry, &filter), expected, "{filter} of {entry}");
            }
        }
        assert!(!matches(&entry, "Service.TaggedAddresses.absent.Port == 0"));
        assert!(matches(&entry, "Service.TaggedAddresses.absent.Port != 0"));
        assert!(!matches(&entry, "absent in Service.Meta"));
        assert!(!matches(&entry, "\"\" in Service.TaggedAddresses"));
    }
}

/// Go omits empty fields or writes them as null.
#[test]
fn absent_fields_have_the_zero_values_of_go() {
    for entry in [
        json!({}),
        json!({"Node": null, "Service": null, "Checks": null}),
        json!({"Service": {"Proxy": {"Upstreams": null}, "Connect": {}}, "Checks": []}),
    ] {
        for yes in [
            "Service.Kind == \"\"",
            "Service.Port == 0",
            "Service.Connect.Native == false",
            "Service.Connect.Native != true",
            "Service.Tags is empty",
            "a not in Service.Tags",
            "Service.Proxy.Upstreams is empty",
            "Service.Proxy.DestinationServiceName is empty",
            "Service.Proxy.Config is empty",
            "Service.Locality.Zone == \"\"",
            "Checks is empty",
            "not Checks.Status == passing",
        ] {
            assert!(matches(&entry, yes), "{yes} of {entry}");
        }
        for no in [
            "Service.Port != 0",
            "Service.Proxy.Upstreams.DestinationName != db",
            "Service.Proxy.Upstreams.DestinationName == \"\"",
            "Checks.Status != passing",
            "Checks.Output matches `.*`",
            "Checks is not empty",
        ] {
            assert!(!matches(&entry, no), "{no} of {entry}");
        }
    }
}

#[test]
fn proxy_configuration_is_matched_as_text() {
    let proxy = json!({
        "Config": {"protocol": "http", "timeout": 5, "on": true, "deep": {"a": 1}},
        "Upstreams": [{"DestinationName": "db", "LocalBindPort": 9191}, {"DestinationName": "mq"}],
        "Expose": {"Paths": [{"Path": "/healthz"}]},
    });
    let entry = json!({"Service": {"Proxy": proxy}});
    for yes in [
        "Service.Proxy.Config.protocol == http",
        "Service.Proxy.Config.timeout == 5",
        "Service.Proxy.Config.on == true",
        "deep in Service.Proxy.Config",
        "Service.Proxy.Upstreams.LocalBindPort == 9191",
        "Service.Proxy.Upstreams.DestinationName == mq",
        "Service.Proxy.Expose.Paths.Path == \"/healthz\"",
        "Service.Proxy.Expose.Paths is not empty",
    ] {
        assert!(matches(&entry, yes), "{yes}");
    }
}

#[test]
fn invalid_filter_gets_the_error_of_consul() {
    let begin = "Failed to create boolean expression evaluator: ";
    for (filter, why) in [
        ("Nope == 1", "Selector \"Nope\" is not valid"),
        ("service.port == 1", "Selector \"service.port\" is not valid"),
        ("Service.Tags == a", "Invalid match operator \"Equal\" for selector \"Service.Tags\""),
        ("a not in Checks", "Invalid match operator \"Not In\" for selector \"Checks\""),
        ("Service.Port contains 1", "Invalid match operator \"In\" for selector \"Service.Port\""),
        ("Service.Port is  not empty", "Invalid match operator \"Is Not Empty\" for selector \"Service.Port\""),
        (
            "Service.Port == x",
            "Failed to coerce value \"x\" for selector \"Service.Port\": strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "Service.EnableTagOverride == maybe",
            "Failed to coerce value \"maybe\" for selector \"Service.EnableTagOverride\": strconv.ParseBool: parsing \"maybe\": \
             invalid syntax",
        ),
    ] {
        assert_eq!(error_of(filter), format!("{begin}{why}"), "{filter}");
    }
}

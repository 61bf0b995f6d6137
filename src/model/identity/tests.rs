//! Decoding of ids, which shows that no two identities have the same id.

use proptest::prelude::*;

use super::*;

/// Identity that an id encodes.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Name of a node in lower case, and an id on that node.
    On(String, String),
    /// Name of a node in lower case.
    Node(String),
}

fn decode(id: &str) -> Identity {
    let Some(rest) = id.strip_prefix(RESERVED_PREFIX) else { return Identity::On(String::new(), id.to_owned()) };
    match rest.split_once(SEPARATOR) {
        Some((node, id)) => Identity::On(unescape(node), unescape(id)),
        None => Identity::Node(unescape(rest)),
    }
}

fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).unwrap()
}

fn lower(node: &str) -> String {
    node.chars().flat_map(char::to_lowercase).collect()
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[ab/%@ .A]{0,4}", "[a-zA-Z0-9@/%_.-]{0,12}", "\\PC{0,8}", Just("é/%2F@".to_owned())]
}

proptest! {
    #[test]
    fn id_decodes_to_its_identity(node in names(), id in names()) {
        let encoded = id_on_node(&node, &id);
        prop_assert_eq!(decode(&encoded), Identity::On(lower(&node), id.clone()));
        prop_assert_eq!(decode(&node_id(&node)), Identity::Node(lower(&node)));
        prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{}", encoded);
        prop_assert_eq!(InstanceId::parse_any(&encoded).map(|id| id.to_string()), Ok(encoded.to_string()));
    }

    #[test]
    fn id_that_is_valid_in_the_native_api_is_made_only_for_the_local_node(node in names(), id in names()) {
        let encoded = id_on_node(&node, &id);
        prop_assert_eq!(InstanceId::parse(&encoded).is_ok(), node.is_empty() && InstanceId::parse(&id).is_ok());
        prop_assert!(InstanceId::parse(&node_id(&node)).is_err());
    }

    #[test]
    fn instance_is_on_its_node_and_on_no_other(node in names(), other in names(), id in names()) {
        let encoded = id_on_node(&node, &id);
        prop_assert!(is_on_node(&encoded, &node_id(&node)));
        prop_assert_eq!(is_on_node(&encoded, &node_id(&other)), same_node(&node, &other));
    }
}

#[test]
fn ids_of_different_identities_differ() {
    let all = [
        id_on_node("", "n2/web"),
        id_on_node("n2", "web"),
        id_on_node("", "@n2/web"),
        id_on_node("a/b", "c"),
        id_on_node("a", "b/c"),
        id_on_node("a%2Fb", "c"),
        id_on_node("", "a b"),
        id_on_node("", "a%20b"),
        id_on_node("_agent", ""),
        id_on_node("", "_agent"),
        node_id(""),
        node_id("_agent"),
        node_id("@"),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
    assert_eq!(all[0], "n2/web");
    assert_eq!(all[1], "@n2/web");
    assert_eq!(all[6], "@/a%20b");
}

#[test]
fn node_names_that_differ_in_case_make_the_same_id() {
    assert_eq!(id_on_node("Edge07", "Web"), id_on_node("eDGE07", "Web"));
    assert_ne!(id_on_node("edge07", "Web"), id_on_node("edge07", "web"), "ids keep their case");
    assert_eq!(node_id("KÖLN"), node_id("köln"));
    assert!(same_node("KÖLN", "köln") && !same_node("köln", "koln"));
}

#[test]
fn longest_node_and_id_make_a_valid_id() {
    let long = "ü".repeat(256);
    let encoded = id_on_node(&long, &long);
    assert_eq!(encoded.len(), 2 + 2 * 3 * 512);
    assert!(InstanceId::parse_any(&encoded).is_ok());
    assert!(InstanceId::parse_any(&format!("{encoded}x")).is_err());
}

#[test]
fn stored_id_of_the_old_form_is_replaced() {
    let converted = |service: &str, stored: &str, node: &str, id: &str| {
        let mut registration =
            Arc::new(ConsulRegistration { node: node.into(), id: id.into(), ..ConsulRegistration::default() });
        let service = ServiceName::parse_stored(service).unwrap();
        let encoded = InstanceId::from_stored(&service, stored, Some(&mut registration)).unwrap();
        (encoded.to_string(), registration.node.to_string())
    };
    let expected = |id: &str, node: &str| (id.to_owned(), node.to_owned());
    assert_eq!(converted("web", "n2/web", "n2", "web"), expected("@n2/web", "n2"));
    assert_eq!(converted("web", "n2/web", "", "n2/web"), expected("n2/web", ""));
    assert_eq!(converted("_nodes", "Edge07", "", "some uuid"), expected("@edge07", "Edge07"));
    assert_eq!(converted("_nodes", "_agent", "", ""), expected("@", ""));
    for (stored, node) in [("@", ""), ("@edge07", "Edge07"), ("@_agent", "_agent")] {
        assert_eq!(converted("_nodes", stored, node, ""), expected(stored, node), "an id of the present form stays");
    }
    let native = ServiceName::parse("web").unwrap();
    assert_eq!(InstanceId::from_stored(&native, "@old", None).unwrap().as_str(), "@old");
}

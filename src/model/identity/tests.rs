//! The way back from an id to what it was made of, which shows that no two identities share one.

use proptest::prelude::*;

use super::*;

/// What an id says it was made of.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// A node's name in lower case, and an id on it.
    On(String, String),
    /// A node itself.
    Node(String),
}

fn read(id: &str) -> Identity {
    let Some(rest) = id.strip_prefix(RESERVED) else { return Identity::On(String::new(), id.to_owned()) };
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
    fn every_identity_can_be_read_from_its_id(node in names(), id in names()) {
        let made = id_on_node(&node, &id);
        prop_assert_eq!(read(&made), Identity::On(lower(&node), id.clone()));
        prop_assert_eq!(read(&node_id(&node)), Identity::Node(lower(&node)));
        prop_assert!(made.bytes().all(|byte| byte.is_ascii_graphic()), "{}", made);
        prop_assert_eq!(InstanceId::parse_any(&made).map(|id| id.to_string()), Ok(made.to_string()));
    }

    #[test]
    fn an_id_that_can_be_registered_natively_is_made_for_the_local_node_alone(node in names(), id in names()) {
        let made = id_on_node(&node, &id);
        prop_assert_eq!(InstanceId::parse(&made).is_ok(), node.is_empty() && InstanceId::parse(&id).is_ok());
        prop_assert!(InstanceId::parse(&node_id(&node)).is_err());
    }

    #[test]
    fn an_instance_is_on_its_node_and_on_no_other(node in names(), other in names(), id in names()) {
        let made = id_on_node(&node, &id);
        prop_assert!(is_on_node(&made, &node_id(&node)));
        prop_assert_eq!(is_on_node(&made, &node_id(&other)), same_node(&node, &other));
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
fn node_names_that_differ_in_case_are_one() {
    assert_eq!(id_on_node("Edge07", "Web"), id_on_node("eDGE07", "Web"));
    assert_ne!(id_on_node("edge07", "Web"), id_on_node("edge07", "web"), "ids keep their case");
    assert_eq!(node_id("KÖLN"), node_id("köln"));
    assert!(same_node("KÖLN", "köln") && !same_node("köln", "koln"));
}

#[test]
fn the_longest_node_and_id_make_an_id() {
    let long = "ü".repeat(256);
    let made = id_on_node(&long, &long);
    assert_eq!(made.len(), 2 + 2 * 3 * 512);
    assert!(InstanceId::parse_any(&made).is_ok());
    assert!(InstanceId::parse_any(&format!("{made}x")).is_err());
}

#[test]
fn stored_ids_of_the_old_form_are_made_anew() {
    let restored = |service: &str, stored: &str, node: &str, id: &str| {
        let mut listing =
            Arc::new(ConsulRegistration { node: node.into(), id: id.into(), ..ConsulRegistration::default() });
        let service = ServiceName::parse_stored(service).unwrap();
        let made = InstanceId::restored(&service, stored, Some(&mut listing)).unwrap();
        (made.to_string(), listing.node.to_string())
    };
    let is = |id: &str, node: &str| (id.to_owned(), node.to_owned());
    assert_eq!(restored("web", "n2/web", "n2", "web"), is("@n2/web", "n2"));
    assert_eq!(restored("web", "n2/web", "", "n2/web"), is("n2/web", ""));
    assert_eq!(restored("_nodes", "Edge07", "", "some uuid"), is("@edge07", "Edge07"));
    assert_eq!(restored("_nodes", "_agent", "", ""), is("@", ""));
    for (stored, node) in [("@", ""), ("@edge07", "Edge07"), ("@_agent", "_agent")] {
        assert_eq!(restored("_nodes", stored, node, ""), is(stored, node), "the present form stays");
    }
    let native = ServiceName::parse("web").unwrap();
    assert_eq!(InstanceId::restored(&native, "@old", None).unwrap().as_str(), "@old");
}

use std::{cell::RefCell, collections::BTreeMap};

use super::*;

const NOW: UnixMillis = UnixMillis(1);

/// Resources by type and name. A cluster or an assignment exists if it has content; listeners and routes exist for any name.
#[derive(Debug, Default)]
pub(super) struct FakeSource {
    content: RefCell<BTreeMap<(usize, String), u64>>,
}

impl FakeSource {
    pub(super) fn put(&self, kind: ResourceType, name: &str, content: u64) {
        self.content.borrow_mut().insert((kind as usize, name.to_owned()), content);
    }
}

impl FakeSource {
    pub(super) fn remove(&self, kind: ResourceType, name: &str) {
        self.content.borrow_mut().remove(&(kind as usize, name.to_owned()));
    }
}

impl ResourceSource for FakeSource {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<EncodedResource> {
        let content = self.content.borrow().get(&(kind as usize, name.to_owned())).copied();
        if name.contains(' ') && kind == ResourceType::Cluster {
            return None;
        }
        // A cluster does not depend on its service.
        let content = content.filter(|_| kind != ResourceType::Cluster);
        Some(EncodedResource::new(format!("{kind:?} {name} {content:?}").into_bytes().into()))
    }

    fn clusters(&self) -> Vec<Arc<str>> {
        let clusters = |(kind, _): &&(usize, String)| *kind == ResourceType::Cluster as usize;
        self.content.borrow().keys().filter(clusters).map(|(_, name)| Arc::from(name.as_str())).collect()
    }

    fn has_cluster(&self, name: &str) -> bool {
        self.content.borrow().contains_key(&(ResourceType::Cluster as usize, name.to_owned()))
    }

    fn revision(&self) -> u64 {
        9
    }

    fn selected_until(&self, _service: &str) -> Option<u64> {
        None
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn request(kind: ResourceType, nonce: &str, requested: &[&str]) -> SubscriptionRequest {
    SubscriptionRequest { kind, nonce: nonce.to_owned(), error: None, names: RequestedNames::All(names(requested)) }
}

fn delta(kind: ResourceType, nonce: &str, subscribe: &[&str], unsubscribe: &[&str]) -> SubscriptionRequest {
    let names =
        RequestedNames::Changes { subscribe: names(subscribe), unsubscribe: names(unsubscribe), initial: Vec::new() };
    SubscriptionRequest { kind, nonce: nonce.to_owned(), error: None, names }
}

fn sent(response: Option<ResourceResponse>) -> Option<(ResourceType, u64, String, String)> {
    response.map(|response| {
        let names: Vec<_> = response.resources.iter().map(|(name, _)| &**name).collect();
        (response.kind, response.nonce, names.join(" "), response.removed.join(" "))
    })
}

/// Session of a client, with its resources.
struct Client {
    session: Session,
    source: FakeSource,
}

impl Client {
    fn new(variant: XdsVariant) -> Self {
        Self { session: Session::new(variant), source: FakeSource::default() }
    }

    fn send(&mut self, request: SubscriptionRequest) -> RequestOutcome {
        self.session.request(request, NOW)
    }

    /// Next response: its resources, and the removed names.
    fn next(&mut self) -> Option<(ResourceType, u64, String, String)> {
        sent(self.session.next_response(&self.source, NOW))
    }

    fn change(&mut self, kind: ResourceType, name: &str, content: u64) {
        self.source.put(kind, name, content);
        self.session.changed(name, vec![name]);
    }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with the next response, if there is one")]
fn response(kind: ResourceType, nonce: u64, names: &str) -> Option<(ResourceType, u64, String, String)> {
    Some((kind, nonce, names.to_owned(), String::new()))
}

use ResourceType::{Assignment, Cluster, Listener};

#[test]
fn every_type_is_answered_and_accepted_on_its_own() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Listener, "", &["a"]));
    assert_eq!(client.next(), response(Listener, 1, "a"));
    assert_eq!(client.send(request(Listener, "1", &["a"])), RequestOutcome::Accepted);
    client.send(request(Assignment, "", &["a"]));
    client.send(request(Cluster, "", &["a"]));
    assert_eq!(client.next(), response(Cluster, 2, "a"), "before the endpoints");
    assert_eq!(client.next(), response(Assignment, 3, "a"));
    assert_eq!(client.next(), None);
    let status = |client: &Client, kind| client.session.subscription(kind).status_of("a");
    assert_eq!(status(&client, Listener), Some(ResourceStatus::Synced));
    assert_eq!(status(&client, Cluster), Some(ResourceStatus::Stale));
    assert_eq!(client.send(request(Cluster, "2", &["a"])), RequestOutcome::Accepted);
    assert_eq!(status(&client, Cluster), Some(ResourceStatus::Synced));
}

#[test]
fn changes_wait_for_the_answer_to_the_previous_response_and_become_one() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a", "b"]));
    assert_eq!(client.next(), response(Assignment, 1, "a b"));
    client.change(Assignment, "a", 1);
    client.change(Assignment, "a", 2);
    assert_eq!(client.next(), None);
    client.send(request(Assignment, "1", &["a", "b"]));
    assert_eq!(client.next(), response(Assignment, 2, "a"));
    client.send(request(Assignment, "2", &["a", "b"]));
    client.session.changed("a", vec!["a"]);
    assert_eq!(client.next(), None, "the content is the same");
    client.change(Assignment, "b", 1);
    assert_eq!(client.next(), response(Assignment, 3, "b"), "at once");
}

#[test]
fn added_names_are_answered_before_the_previous_response_is() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a"]));
    assert_eq!(client.next(), response(Assignment, 1, "a"));
    client.send(request(Assignment, "", &["a", "b"]));
    assert_eq!(client.next(), response(Assignment, 2, "b"));
    client.send(request(Cluster, "", &["a"]));
    client.next();
    client.send(request(Cluster, "3", &["a", "b"]));
    assert_eq!(client.next(), response(Cluster, 4, "a b"), "clusters are complete");
}

#[test]
fn outdated_nonce_is_ignored_and_that_of_a_first_request_is_not() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "77", &["a"]));
    assert_eq!(client.next(), response(Assignment, 1, "a"));
    for outdated in ["0", "2", "garbage", "-1"] {
        assert_eq!(client.send(request(Assignment, outdated, &["a", "b"])), RequestOutcome::Outdated, "{outdated}");
        assert_eq!(client.next(), None, "{outdated}");
    }
    assert_eq!(client.send(request(Assignment, "1", &["a", "b"])), RequestOutcome::Accepted);
    assert_eq!(client.next(), response(Assignment, 2, "b"));
}

#[test]
fn resource_that_outdated_request_leaves_out_is_sent_when_it_is_named_again() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a", "b"]));
    client.next();
    client.send(request(Assignment, "1", &["a", "b"]));
    client.change(Assignment, "b", 1);
    assert_eq!(client.next(), response(Assignment, 2, "b"));
    // Before the client has the second response, it drops `a` and subscribes to it again.
    for names in [&["b"][..], &["a", "b"]] {
        assert_eq!(client.send(request(Assignment, "1", names)), RequestOutcome::Outdated);
        assert_eq!(client.next(), None);
    }
    client.send(request(Assignment, "2", &["a", "b"]));
    assert_eq!(client.next(), response(Assignment, 3, "a"));
}

#[test]
fn wildcard_that_ends_before_its_list_is_read_sends_no_list() {
    let mut client = Client::new(XdsVariant::Delta);
    client.source.put(Cluster, "a", 1);
    client.send(delta(Cluster, "", &["*"], &[]));
    client.send(delta(Cluster, "", &[], &["*"]));
    assert_eq!(client.next(), None);
}

#[test]
fn rejection_after_apparent_acceptance_counts() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a"]));
    client.next();
    assert_eq!(client.send(request(Assignment, "1", &["a"])), RequestOutcome::Accepted);
    let rejection = SubscriptionRequest { error: Some("no".to_owned()), ..request(Assignment, "1", &["a"]) };
    assert_eq!(client.send(rejection), RequestOutcome::Rejected("no".into()));
    assert_eq!(client.session.subscription(Assignment).status_of("a"), Some(ResourceStatus::Rejected));
}

#[test]
fn resource_stays_rejected_when_a_response_with_others_is_accepted() {
    let mut client = Client::new(XdsVariant::Delta);
    client.send(delta(Assignment, "", &["a"], &[]));
    client.next();
    client.send(SubscriptionRequest { error: Some("no".to_owned()), ..delta(Assignment, "1", &[], &[]) });
    client.send(delta(Assignment, "", &["b"], &[]));
    client.next();
    client.send(delta(Assignment, "2", &[], &[]));
    let status = |client: &Client, name| client.session.subscription(Assignment).status_of(name);
    assert_eq!(status(&client, "a"), Some(ResourceStatus::Rejected));
    assert_eq!(status(&client, "b"), Some(ResourceStatus::Synced));
    assert!(client.session.subscription(Assignment).rejected().is_some());
    client.change(Assignment, "a", 1);
    client.next();
    client.send(delta(Assignment, "3", &[], &[]));
    assert!(client.session.subscription(Assignment).rejected().is_none());
}

#[test]
fn long_name_counts_as_several_resources() {
    let mut client = Client::new(XdsVariant::Delta);
    let long = "x".repeat(2_560);
    client.send(delta(Assignment, "", &["a", &long], &[]));
    assert_eq!(client.session.named(), 12);
    client.send(delta(Assignment, "", &[], &[&long]));
    assert_eq!(client.session.named(), 1);
}

#[test]
fn rejected_resource_is_sent_again_only_when_it_changes() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a"]));
    client.next();
    let rejection = SubscriptionRequest { error: Some("x".repeat(5_000)), ..request(Assignment, "1", &["a"]) };
    let expected = RequestOutcome::Rejected("x".repeat(MAX_ERROR_CHARS).into());
    assert_eq!(client.send(rejection.clone()), expected);
    assert_eq!(client.session.subscription(Assignment).status_of("a"), Some(ResourceStatus::Rejected));
    for _ in 0..3 {
        assert_ne!(client.send(rejection.clone()), expected, "it is reported once");
        client.session.all_changed();
        assert_eq!(client.next(), None);
    }
    client.change(Assignment, "a", 1);
    assert_eq!(client.next(), response(Assignment, 2, "a"));
    client.send(request(Assignment, "2", &["a"]));
    assert_eq!(client.session.subscription(Assignment).status_of("a"), Some(ResourceStatus::Synced));
    assert_eq!(client.session.subscription(Assignment).rejected(), None);
}

#[test]
fn empty_list_means_all_until_names_were_given() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.source.put(Cluster, "a", 1);
    client.send(request(Cluster, "", &[]));
    assert_eq!(client.session.take_interest(), [InterestChange::AllServices(true)]);
    assert_eq!(client.next(), response(Cluster, 1, "a"));
    client.send(request(Cluster, "1", &[]));
    client.change(Cluster, "b", 1);
    assert_eq!(client.next(), response(Cluster, 2, "a b"));
    client.send(request(Cluster, "2", &["b"]));
    assert_eq!(client.session.take_interest(), [InterestChange::AllServices(false)]);
    assert_eq!(client.next(), response(Cluster, 3, "b"));
    client.send(request(Cluster, "3", &[]));
    assert_eq!((client.next(), client.session.named()), (None, 0));
}

#[test]
fn list_of_all_listeners_is_empty_and_answered() {
    for variant in [XdsVariant::StateOfTheWorld, XdsVariant::Delta] {
        let mut client = Client::new(variant);
        client.send(match variant {
            XdsVariant::StateOfTheWorld => request(Listener, "", &[]),
            XdsVariant::Delta => delta(Listener, "", &[], &[]),
        });
        assert_eq!(client.next(), response(Listener, 1, ""));
        assert_eq!(client.next(), None);
    }
}

#[test]
fn endpoints_are_sent_again_after_their_cluster_changed() {
    let mut client = Client::new(XdsVariant::Delta);
    client.send(delta(Assignment, "", &["a"], &[]));
    assert_eq!(client.next(), response(Assignment, 1, "a"));
    client.send(delta(Assignment, "1", &[], &[]));
    client.send(delta(Cluster, "", &["a"], &[]));
    assert_eq!(client.next(), response(Cluster, 2, "a"));
    assert_eq!(client.next(), response(Assignment, 3, "a"));
}

#[test]
fn delta_subscription_continues_with_the_versions_of_an_earlier_stream() {
    let mut client = Client::new(XdsVariant::Delta);
    for name in ["a", "b", "new"] {
        client.source.put(Cluster, name, 1);
    }
    let hash = |client: &Client, name| client.source.resource(Cluster, name).map(|resource| resource.hash);
    let initial = vec![
        ("a".to_owned(), hash(&client, "a")),
        ("b".to_owned(), Some(0)),
        ("gone".to_owned(), hash(&client, "gone")),
    ];
    let names = RequestedNames::Changes { subscribe: vec![], unsubscribe: vec![], initial };
    client.send(SubscriptionRequest { kind: Cluster, nonce: String::new(), error: None, names });
    assert_eq!(client.next(), Some((Cluster, 1, "b new".to_owned(), "gone".to_owned())));
    assert_eq!(client.next(), None);
}

#[test]
fn name_that_is_subscribed_again_is_sent_again() {
    let mut client = Client::new(XdsVariant::Delta);
    client.send(delta(Assignment, "", &["a", "b"], &[]));
    client.next();
    client.send(delta(Assignment, "", &["a"], &["b"]));
    assert_eq!(client.next(), response(Assignment, 2, "a"));
    client.change(Assignment, "b", 2);
    assert_eq!(client.next(), None, "not subscribed any more");
}

#[test]
fn name_unsubscribed_under_a_wildcard_is_sent_again_or_removed() {
    let mut client = Client::new(XdsVariant::Delta);
    client.source.put(Cluster, "a", 1);
    client.send(delta(Cluster, "", &["*", "a", "other"], &[]));
    assert_eq!(client.next(), response(Cluster, 1, "a other"));
    client.send(delta(Cluster, "1", &[], &["a", "other"]));
    assert_eq!(client.next(), Some((Cluster, 2, "a".to_owned(), "other".to_owned())));
    client.send(delta(Cluster, "2", &[], &["*"]));
    client.change(Cluster, "b", 1);
    assert_eq!(client.next(), None);
}

#[test]
fn name_without_a_resource_is_removed_in_delta_and_missing_otherwise() {
    let mut client = Client::new(XdsVariant::Delta);
    client.send(delta(Cluster, "", &["a b", "c"], &[]));
    assert_eq!(client.next(), Some((Cluster, 1, "c".to_owned(), "a b".to_owned())));
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Cluster, "", &["a b", "c"]));
    assert_eq!(client.next(), response(Cluster, 1, "c"));
}

#[test]
fn endpoints_and_the_list_of_clusters_are_withheld_while_the_registry_settles() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.session.hold(true);
    client.send(request(Cluster, "", &["a"]));
    client.send(request(Assignment, "", &["a"]));
    assert_eq!(client.next(), response(Cluster, 1, "a"));
    assert_eq!(client.next(), None);
    client.send(request(Assignment, "", &["a", "b"]));
    client.session.hold(false);
    assert_eq!(client.next(), response(Assignment, 2, "a b"));

    let mut proxy = Client::new(XdsVariant::Delta);
    proxy.session.hold(true);
    proxy.send(delta(Cluster, "", &[], &[]));
    assert_eq!(proxy.next(), None);
    proxy.session.hold(false);
    assert_eq!(proxy.next(), response(Cluster, 1, ""));
}

#[test]
fn interest_follows_the_named_assignments() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    client.send(request(Assignment, "", &["a", "b"]));
    client.send(request(Cluster, "", &["a"]));
    let changes = client.session.take_interest();
    assert_eq!(changes, [InterestChange::Add("a".into()), InterestChange::Add("b".into())]);
    client.send(request(Assignment, "", &["b", "c"]));
    let changes = client.session.take_interest();
    assert_eq!(changes, [InterestChange::Remove("a".into()), InterestChange::Add("c".into())]);
}

#[test]
fn large_answer_is_split_into_several_responses() {
    let mut client = Client::new(XdsVariant::StateOfTheWorld);
    let long: Vec<_> = (0..30).map(|n| format!("{n:03}{}", "x".repeat(50_000))).collect();
    client.send(request(Assignment, "", &long.iter().map(String::as_str).collect::<Vec<_>>()));
    let responses: Vec<_> = std::iter::from_fn(|| client.session.next_response(&client.source, NOW)).collect();
    assert!(responses.len() > 1);
    assert_eq!(responses.iter().map(|response| response.resources.len()).sum::<usize>(), 30);
}

#[test]
fn cluster_of_a_removed_subset_leaves_a_client_of_all_clusters() {
    for variant in [XdsVariant::StateOfTheWorld, XdsVariant::Delta] {
        let mut client = Client::new(variant);
        for name in ["a", "a|v1", "a|v2"] {
            client.source.put(ResourceType::Cluster, name, 1);
        }
        match variant {
            XdsVariant::StateOfTheWorld => client.send(request(ResourceType::Cluster, "", &[])),
            XdsVariant::Delta => client.send(delta(ResourceType::Cluster, "", &["*", "a|v2"], &[])),
        };
        let first = client.next();
        assert_eq!(first.map(|(_, _, names, _)| names).as_deref(), Some("a a|v1 a|v2"));
        for name in ["a|v1", "a|v2"] {
            client.source.remove(ResourceType::Cluster, name);
        }
        client.session.remove_cluster("a|v1");
        client.session.remove_cluster("a|v2");
        client.session.remove_cluster("a|v3");
        assert_eq!(client.next(), None, "the first response is not accepted yet");
        let expected = match variant {
            XdsVariant::StateOfTheWorld => {
                client.send(request(ResourceType::Cluster, "1", &[]));
                (ResourceType::Cluster, 2, "a".to_owned(), String::new())
            }
            XdsVariant::Delta => {
                client.send(delta(ResourceType::Cluster, "1", &[], &[]));
                (ResourceType::Cluster, 2, String::new(), "a|v1".to_owned())
            }
        };
        assert_eq!(client.next(), Some(expected));
        assert_eq!(client.next(), None);
    }
}

#[test]
fn service_has_its_own_resources_and_not_those_of_services_whose_names_it_begins() {
    let mut client = Client::new(XdsVariant::Delta);
    let all = ["web", "web-dr|v1", "web.a", "web1|v1", "web:80", "web|v1", "web|v2"];
    client.send(delta(ResourceType::Assignment, "", &all, &[]));
    client.send(delta(ResourceType::Listener, "", &["web-x", "web:80", "web:x", "weba", "web|v1"], &[]));
    while client.next().is_some() {}
    client.send(delta(ResourceType::Assignment, "1", &[], &[]));
    client.send(delta(ResourceType::Listener, "2", &[], &[]));
    client.source.put(ResourceType::Listener, "web:80", 2);
    for name in all {
        client.source.put(ResourceType::Assignment, name, 2);
    }
    client.session.policy_changed("web", Vec::new());
    assert_eq!(client.next(), response(ResourceType::Assignment, 3, "web web|v1 web|v2"));
    assert_eq!(client.next(), response(ResourceType::Listener, 4, "web:80"));
    assert_eq!(client.next(), None);
    assert!(client.session.includes_service("web-dr") && !client.session.includes_service("web-"));
}

//! Random histories of one stream, against a naive model of a correct client.
//!
//! Requests and responses wait in two queues, so that each side acts on old knowledge. After everything has been delivered, the client has
//! the newest content of each subscribed resource that it did not reject.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::{tests::FakeSource, *};
use ResourceType::{Assignment, Cluster};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "not valid"];
/// Responses that one request or change may cause at most.
const MAX_RESPONSES: usize = 4;
/// Deliveries after which a history must have come to rest.
const MAX_DELIVERIES: usize = 100;

#[derive(Debug, Clone)]
enum HistoryStep {
    Subscribe(ResourceType, Vec<&'static str>),
    Unsubscribe(ResourceType, Vec<&'static str>),
    Wildcard(bool),
    /// A service has other instances than before.
    Change(&'static str),
    /// A service has no instances any more.
    Empty(&'static str),
    /// The server takes in a request.
    TakeRequest,
    /// The client takes in a response, and may reject it.
    TakeResponse {
        rejects: bool,
    },
    /// The stream breaks: messages in transit are lost, and the client opens another one, with or without the versions of its resources.
    Reconnect {
        versions: bool,
        held: bool,
    },
    Settle,
}

fn step() -> impl Strategy<Value = HistoryStep> {
    let kind = || prop_oneof![Just(Assignment), Just(Cluster)];
    let names = || subsequence(NAMES.to_vec(), 1..3);
    let name = || prop::sample::select(NAMES[..4].to_vec());
    prop_oneof![
        4 => (kind(), names()).prop_map(|(kind, names)| HistoryStep::Subscribe(kind, names)),
        3 => (kind(), names()).prop_map(|(kind, names)| HistoryStep::Unsubscribe(kind, names)),
        1 => any::<bool>().prop_map(HistoryStep::Wildcard),
        5 => name().prop_map(HistoryStep::Change),
        1 => name().prop_map(HistoryStep::Empty),
        8 => Just(HistoryStep::TakeRequest),
        8 => prop::bool::weighted(0.2).prop_map(|rejects| HistoryStep::TakeResponse { rejects }),
        1 => any::<(bool, bool)>().prop_map(|(versions, held)| HistoryStep::Reconnect { versions, held }),
        1 => Just(HistoryStep::Settle),
    ]
}

type Content = BTreeMap<String, EncodedResource>;

/// State of the client for one type.
#[derive(Debug, Default)]
struct ModelSubscription {
    names: BTreeSet<String>,
    wildcard: bool,
    accepted: Content,
    rejected: Content,
    /// Nonce of the latest response of this stream.
    nonce: String,
}

impl ModelSubscription {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn drop_unsubscribed(&mut self) {
        let Self { names, wildcard, accepted, rejected, .. } = self;
        accepted.retain(|name, _| *wildcard || names.contains(name));
        rejected.retain(|name, _| *wildcard || names.contains(name));
    }
}

struct History {
    variant: XdsVariant,
    session: Session,
    source: FakeSource,
    content: u64,
    clusters: ModelSubscription,
    assignments: ModelSubscription,
    to_server: VecDeque<SubscriptionRequest>,
    to_client: VecDeque<ResourceResponse>,
    /// Latest response of each type, unless something has asked for another since.
    latest: [Option<ResourceResponse>; 4],
}

impl History {
    fn new(variant: XdsVariant) -> Self {
        Self {
            variant,
            session: Session::new(variant),
            source: FakeSource::default(),
            content: 0,
            clusters: ModelSubscription::default(),
            assignments: ModelSubscription::default(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            latest: Default::default(),
        }
    }

    fn of(&mut self, kind: ResourceType) -> &mut ModelSubscription {
        if kind == Cluster { &mut self.clusters } else { &mut self.assignments }
    }

    fn run(&mut self, step: HistoryStep) {
        match step {
            HistoryStep::Subscribe(kind, names) => self.subscribe(kind, &names),
            HistoryStep::Unsubscribe(kind, names) => self.unsubscribe(kind, &names),
            HistoryStep::Wildcard(true) if !self.clusters.wildcard => self.subscribe(Cluster, &["*"]),
            HistoryStep::Wildcard(false) if self.clusters.wildcard => self.unsubscribe(Cluster, &["*"]),
            HistoryStep::Wildcard(_) => {}
            HistoryStep::Change(name) => self.change(name, true),
            HistoryStep::Empty(name) => self.change(name, false),
            HistoryStep::TakeRequest => self.take_request(),
            HistoryStep::TakeResponse { rejects } => self.take_response(rejects),
            HistoryStep::Reconnect { versions, held } => self.reconnect(versions, versions && held),
            HistoryStep::Settle => self.settle(),
        }
    }

    fn subscribe(&mut self, kind: ResourceType, names: &[&str]) {
        let subscription = self.of(kind);
        for name in names {
            if *name == "*" {
                subscription.wildcard = true;
            } else {
                subscription.names.insert((*name).to_owned());
            }
        }
        self.send(kind, names, &[], Vec::new());
    }

    fn unsubscribe(&mut self, kind: ResourceType, names: &[&str]) {
        let subscription = self.of(kind);
        let mut gone = Vec::new();
        for name in names {
            let was_subscribed = if *name == "*" {
                std::mem::take(&mut subscription.wildcard)
            } else {
                subscription.names.remove(*name)
            };
            if was_subscribed {
                gone.push(*name);
            }
        }
        subscription.drop_unsubscribed();
        if !gone.is_empty() {
            self.send(kind, &[], &gone, Vec::new());
        }
    }

    fn send(&mut self, kind: ResourceType, more: &[&str], less: &[&str], initial: Vec<(String, Option<u64>)>) {
        let variant = self.variant;
        let subscription = self.of(kind);
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let (nonce, names) = match variant {
            XdsVariant::StateOfTheWorld => (subscription.nonce.clone(), RequestedNames::All(all(subscription))),
            XdsVariant::Delta => {
                let names = RequestedNames::Changes { subscribe: owned(more), unsubscribe: owned(less), initial };
                (String::new(), names)
            }
        };
        self.to_server.push_back(SubscriptionRequest { kind, nonce, error: None, names });
    }

    fn change(&mut self, name: &str, is_registered: bool) {
        self.content += 1;
        self.source.put(Assignment, name, self.content);
        if is_registered {
            self.source.put(Cluster, name, 0);
        } else {
            self.source.remove(Cluster, name);
        }
        self.session.changed(name, vec![name]);
        self.respond();
    }

    fn settle(&mut self) {
        self.session.hold(false);
        self.session.all_changed();
        self.respond();
    }

    fn take_request(&mut self) {
        let Some(request) = self.to_server.pop_front() else { return };
        let is_answer = match &request.names {
            RequestedNames::All(_) => false,
            RequestedNames::Changes { subscribe, unsubscribe, .. } => subscribe.is_empty() && unsubscribe.is_empty(),
        };
        let kind = request.kind as usize;
        let before = self.session.types[kind].names_and_wildcard();
        self.session.request(request, UnixMillis(1));
        if !is_answer && (self.variant == XdsVariant::Delta || before != self.session.types[kind].names_and_wildcard())
        {
            self.latest[kind] = None;
        }
        self.respond();
    }

    fn respond(&mut self) {
        let mut count = 0;
        while let Some(response) = self.session.next_response(&self.source, UnixMillis(1)) {
            count += 1;
            assert!(count <= MAX_RESPONSES, "endless responses: {response:?}");
            let waits = self.session.is_held() && response.kind == Assignment;
            assert!(!waits, "endpoints are withheld: {response:?}");
            if let Some(latest) = &self.latest[response.kind as usize] {
                let is_same = latest.resources == response.resources && latest.removed == response.removed;
                assert!(!is_same, "sent twice: {response:?}");
            }
            if response.kind == Cluster {
                // The endpoints of a new cluster are sent again.
                self.latest[Assignment as usize] = None;
            }
            self.latest[response.kind as usize] = Some(response.clone());
            self.to_client.push_back(response);
        }
    }

    fn take_response(&mut self, rejects: bool) {
        let Some(response) = self.to_client.pop_front() else { return };
        let is_whole = self.variant == XdsVariant::StateOfTheWorld && response.kind == Cluster;
        let subscription = self.of(response.kind);
        subscription.nonce = response.nonce.to_string();
        let received: Content = response
            .resources
            .iter()
            .filter(|(name, _)| subscription.covers(name))
            .map(|(name, resource)| (name.to_string(), resource.clone()))
            .collect();
        if rejects {
            subscription.rejected.extend(received);
        } else {
            if is_whole {
                subscription.accepted.clear();
            }
            subscription.rejected.retain(|name, _| !is_whole && !received.contains_key(name));
            subscription.accepted.extend(received);
            subscription.accepted.retain(|name, _| !response.removed.iter().any(|removed| **removed == **name));
        }
        let names = match self.variant {
            XdsVariant::StateOfTheWorld => RequestedNames::All(all(self.of(response.kind))),
            XdsVariant::Delta => {
                RequestedNames::Changes { subscribe: Vec::new(), unsubscribe: Vec::new(), initial: Vec::new() }
            }
        };
        let error = rejects.then(|| "no".to_owned());
        let (kind, nonce) = (response.kind, response.nonce.to_string());
        self.to_server.push_back(SubscriptionRequest { kind, nonce, error, names });
    }

    fn reconnect(&mut self, versions: bool, held: bool) {
        self.to_server.clear();
        self.to_client.clear();
        self.latest = Default::default();
        self.session = Session::new(self.variant);
        self.session.hold(held);
        for kind in [Cluster, Assignment] {
            let subscription = self.of(kind);
            subscription.nonce.clear();
            subscription.rejected.clear();
            let names = all(subscription);
            if names.is_empty() {
                continue;
            }
            let known = subscription.accepted.iter().filter(|_| versions);
            let initial = known.map(|(name, resource)| (name.clone(), Some(resource.hash))).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            self.send(kind, &names, &[], initial);
        }
    }

    /// Delivers everything, and verifies what the client has.
    fn finish(&mut self) {
        self.settle();
        for _ in 0..MAX_DELIVERIES {
            self.take_request();
            self.take_response(false);
        }
        assert!(self.to_server.is_empty() && self.to_client.is_empty(), "the history does not come to rest");
        assert!(self.session.types.iter().all(|one| one.unanswered_since().is_none() && !one.is_due()));
        let listed = self.source.clusters();
        for (kind, subscription) in [(Cluster, &self.clusters), (Assignment, &self.assignments)] {
            let listed = listed.iter().filter(|_| subscription.wildcard).map(ToString::to_string);
            for name in subscription.names.iter().cloned().chain(listed) {
                let newest = self.source.resource(kind, &name);
                let has = subscription.accepted.get(&name);
                let rejected = newest.is_some() && subscription.rejected.get(&name) == newest.as_ref();
                assert!(has == newest.as_ref() || rejected, "{kind:?} {name}: has {has:?}, newest is {newest:?}");
            }
            assert!(subscription.accepted.keys().all(|name| subscription.covers(name)));
        }
    }
}

fn all(subscription: &ModelSubscription) -> Vec<String> {
    let wildcard = subscription.wildcard.then(|| "*".to_owned());
    subscription.names.iter().cloned().chain(wildcard).collect()
}

fn check(variant: XdsVariant, steps: Vec<HistoryStep>) {
    let mut history = History::new(variant);
    for step in steps {
        history.run(step);
    }
    history.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn client_of_the_state_of_the_world_ends_with_the_newest_resources(steps in vec(step(), 0..60)) {
        check(XdsVariant::StateOfTheWorld, steps);
    }

    #[test]
    fn client_of_the_delta_protocol_ends_with_the_newest_resources(steps in vec(step(), 0..60)) {
        check(XdsVariant::Delta, steps);
    }
}

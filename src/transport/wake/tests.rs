use std::{collections::BTreeMap, net::SocketAddr, task::Waker};

use super::*;
use crate::{
    metrics::Metrics,
    model::{Metadata, Revision, ServerActor, topic_of_nodes},
    registry::{Attachment, Change, ClockReading, Entry, test_support::entry},
    transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState},
};

fn connection() -> Arc<Connection> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let permit =
        ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new()).admit(peer, "grpc", Protocol::Http2);
    Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), permit.unwrap())
}

fn name(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn names(names: &[&str]) -> Interest {
    Interest::Changes(Arc::new(Selector::Names(names.iter().map(|given| name(given)).collect())))
}

fn everything() -> Interest {
    Interest::Changes(Arc::new(Selector::Everything))
}

fn event(entry: Arc<Entry>) -> Event {
    Event {
        revision: Revision(1),
        at: ClockReading::default(),
        change: Change::Added(entry),
        caller: Arc::clone(ServerActor::InProcess.caller()),
        attachment: Attachment::new(),
    }
}

fn change(notifier: &Notifier, service: &str) {
    notifier.changed(&event(entry(service, "a", 1)));
}

/// Runs a round of the only worker and returns the number of streams that it wakes.
fn round(notifier: &Notifier) -> usize {
    let (due, changes) = notifier.workers[0].take_due();
    for waiter in &due {
        waiter.wake(&changes);
    }
    due.len()
}

/// Returns the changed services that a stream learns of, if it was woken.
fn changes(registration: &WakeRegistration) -> Option<ChangedServices> {
    match registration.poll_changes(&Context::from_waker(Waker::noop())) {
        Poll::Ready(changes) => Some(changes),
        Poll::Pending => None,
    }
}

fn named(given: &[&str]) -> ChangedServices {
    ChangedServices::Named(given.iter().map(|given| name(given)).collect())
}

/// Returns the number of events with so many bytes of metadata until all streams are woken.
fn events_until_all_are_woken(metadata: usize) -> usize {
    let notifier = Arc::new(Notifier::new(1));
    let _registration = notifier.register(&connection(), names(&["other"]));
    let mut instance = entry("web", "a", 1).instance.clone();
    instance.metadata = Metadata::parse(BTreeMap::from([("k".to_owned(), "v".repeat(metadata))]).iter()).unwrap();
    let event = event(Arc::new(Entry::new(instance, None)));
    let woken = (1..=MAX_HISTORY_EVENTS).find(|_| {
        notifier.changed(&event);
        round(&notifier) > 0
    });
    woken.unwrap()
}

#[test]
fn registration_for_lower_case_name_is_woken_by_other_spellings_and_not_the_reverse() {
    let notifier = Arc::new(Notifier::new(1));
    let connection = connection();
    let wakes = |service: &str| {
        change(&notifier, service);
        round(&notifier) > 0
    };
    let lower = notifier.register(&connection, names(&["redis"]));
    assert_eq!(["redis", "Redis", "REDIS", "other", "Other"].map(wakes), [true, true, true, false, false]);
    drop(lower);
    let _upper = notifier.register(&connection, names(&["Redis"]));
    assert_eq!(["redis", "Redis", "REDIS"].map(wakes), [false, true, false]);
}

#[test]
fn registration_for_topic_is_woken_by_that_topic_and_by_no_service() {
    let notifier = Arc::new(Notifier::new(1));
    let (web, db) = (name("web"), name("db"));
    let woken_by = |topic: &ServiceName| {
        notifier.topics_changed(&|| BTreeSet::from([topic.clone()]));
        round(&notifier)
    };
    notifier.topics_changed(&|| panic!("there is no registration for a topic"));
    let interest = Interest::Changes(Arc::new(Selector::Names([topic_of_nodes(&web)].into())));
    let registration = notifier.register(&connection(), interest);
    let _everything = notifier.register(&connection(), everything());
    assert_eq!([topic_of_nodes(&web), topic_of_nodes(&db), web].map(|topic| woken_by(&topic)), [1, 0, 0]);
    drop(registration);
    notifier.topics_changed(&|| panic!("the only registration for a topic is gone"));
}

#[test]
fn every_stream_is_woken_before_the_event_log_moves_on_by_number_or_by_bytes() {
    assert_eq!(events_until_all_are_woken(0), MAX_HISTORY_EVENTS / 4);
    let large = events_until_all_are_woken(8_000);
    assert!(large * 16_000 <= MAX_HISTORY_BYTES / 3, "the log holds fewer large events: {large}");
}

#[test]
fn burst_of_changes_wakes_and_visits_each_stream_that_watches_everything_once() {
    let (notifier, connection) = (Arc::new(Notifier::new(1)), connection());
    let registrations: Vec<_> = (0..10_000).map(|_| notifier.register(&connection, everything())).collect();
    for service in 0..1_000 {
        change(&notifier, &format!("s{service}"));
    }
    notifier.workers[0].take_visited();
    assert_eq!(round(&notifier), registrations.len());
    assert_eq!(notifier.workers[0].take_visited(), registrations.len());
    assert_eq!(round(&notifier), 0, "nothing has changed since");
}

#[test]
fn stream_that_names_several_changed_services_is_woken_once() {
    let (notifier, connection) = (Arc::new(Notifier::new(1)), connection());
    let mut registration = notifier.register_for_names(&connection, names(&["a", "b", "c"]));
    let prefix = notifier.register_for_names(&connection, Interest::Changes(Arc::new(Selector::Prefix("b".into()))));
    registration.add(&name("d"));
    for service in ["a", "b", "d", "e", "b"] {
        change(&notifier, service);
    }
    assert_eq!(round(&notifier), 2);
    assert_eq!((changes(&registration), changes(&prefix)), (Some(named(&["a", "b", "d"])), Some(named(&["b"]))));
    change(&notifier, "a");
    assert_eq!(round(&notifier), 1, "the prefix takes in none of the changes");
    assert_eq!((changes(&registration), changes(&prefix)), (Some(named(&["a"])), None));
}

#[test]
fn stream_receives_changed_services_of_all_rounds_and_all_services_beyond_the_limit() {
    let notifier = Arc::new(Notifier::new(1));
    let registration = notifier.register_for_names(&connection(), everything());
    for service in ["b", "a", "b"] {
        change(&notifier, service);
        round(&notifier);
    }
    assert_eq!(changes(&registration), Some(named(&["a", "b"])));
    assert_eq!(changes(&registration), None, "it was woken once");
    for service in 0..65 {
        change(&notifier, &format!("s{service}"));
    }
    round(&notifier);
    assert_eq!(changes(&registration), Some(ChangedServices::All));
    notifier.wake_all();
    round(&notifier);
    assert_eq!(changes(&registration), Some(ChangedServices::All));
}

#[test]
fn names_are_added_and_removed_one_by_one_in_linear_time() {
    const ADDED: usize = 10_000;
    let notifier = Arc::new(Notifier::new(1));
    let mut registration = notifier.register_for_names(&connection(), names(&["first"]));
    notifier.workers[0].take_visited();
    let added: Vec<_> = (0..ADDED).map(|number| name(&format!("s{number}"))).collect();
    assert!(added.iter().all(|name| registration.add(name)));
    assert_eq!(notifier.workers[0].take_visited(), ADDED, "each addition visits one entry");
    assert!(!registration.add(&added[0]), "it is added already");
    change(&notifier, "s77");
    assert_eq!((round(&notifier), changes(&registration)), (1, Some(named(&["s77"]))));
    notifier.workers[0].take_visited();
    assert!(added.iter().all(|name| registration.remove(name)));
    assert_eq!(notifier.workers[0].take_visited(), ADDED, "each removal visits one entry");
    assert!(!registration.remove(&added[0]), "it is removed already");
    change(&notifier, "s77");
    assert_eq!(round(&notifier), 0);
    drop(registration);
    assert_eq!((notifier.registration_count(), notifier.watched_names.len()), (0, 0));
}

#[test]
fn name_that_is_added_and_removed_leaves_the_interest_as_it_was() {
    let notifier = Arc::new(Notifier::new(1));
    for interest in [names(&["a"]), everything()] {
        let mut registration = notifier.register_for_names(&connection(), interest);
        assert!(registration.add(&name("a")));
        change(&notifier, "a");
        assert_eq!((round(&notifier), changes(&registration)), (1, Some(named(&["a"]))), "it is woken once");
        assert!(registration.remove(&name("a")) && !registration.remove(&name("a")));
        change(&notifier, "a");
        assert_eq!((round(&notifier), changes(&registration)), (1, Some(named(&["a"]))));
        drop(registration);
        assert_eq!((notifier.registration_count(), notifier.watched_names.len()), (0, 0));
    }
}

#[test]
fn name_that_a_wider_interest_includes_for_a_time_stays_added() {
    let notifier = Arc::new(Notifier::new(1));
    let mut registration = notifier.register_for_names(&connection(), Interest::Nothing);
    registration.add(&name("before"));
    registration.set_interest(everything());
    registration.add(&name("during"));
    registration.set_interest(Interest::Nothing);
    for service in ["before", "during", "other"] {
        change(&notifier, service);
    }
    assert_eq!((round(&notifier), changes(&registration)), (1, Some(named(&["before", "during"]))));
    drop(registration);
    assert_eq!((notifier.registration_count(), notifier.watched_names.len()), (0, 0));
}

#[test]
fn interest_that_is_replaced_keeps_added_names() {
    let notifier = Arc::new(Notifier::new(1));
    let mut registration = notifier.register_for_names(&connection(), Interest::Nothing);
    registration.add(&name("added"));
    registration.set_interest(names(&["other"]));
    for service in ["added", "other", "third"] {
        change(&notifier, service);
    }
    assert_eq!((round(&notifier), changes(&registration)), (1, Some(named(&["added", "other"]))));
    drop(registration);
    assert_eq!((notifier.registration_count(), notifier.watched_names.len()), (0, 0));
}

#[test]
fn more_changed_services_than_the_inbox_holds_wake_every_stream() {
    let notifier = Arc::new(Notifier::new(1));
    let registration = notifier.register_for_names(&connection(), everything());
    let elsewhere = notifier.register(&connection(), names(&["other"]));
    for service in 0..5_000 {
        change(&notifier, &format!("s{service}"));
    }
    assert_eq!(round(&notifier), 2);
    assert_eq!((changes(&registration), changes(&elsewhere)), (Some(ChangedServices::All), Some(ChangedServices::All)));
}

#[test]
fn changed_policy_wakes_readers_of_its_service_and_of_the_topic_of_policies() {
    let notifier = Arc::new(Notifier::new(1));
    let connection = connection();
    let register = |given: &[&str]| notifier.register_for_names(&connection, names(given));
    let (web, folded, other) = (register(&["Web"]), register(&["web"]), register(&["other"]));
    let mut policies = register(&["other"]);
    policies.add(&topic_of_policies());
    notifier.policy_changed(&PolicyScope::Service(name("Web")));
    assert_eq!(round(&notifier), 3);
    assert_eq!(
        (changes(&web), changes(&folded), changes(&other)),
        (Some(named(&["Web"])), Some(named(&["web"])), None)
    );
    assert_eq!(changes(&policies), Some(ChangedServices::Named(Arc::new([topic_of_policies()]))));
    notifier.policy_changed(&PolicyScope::Defaults);
    assert_eq!(round(&notifier), 1);
    assert!(changes(&policies).is_some());
}

//! Readers that read on through the deaths of the registry.

use std::{net::SocketAddr, time::Duration};

use callboard::{
    client::{Endpoint, Watch, WatchEvent},
    pb::callboard::v1::{ResetReason, WatchRequest, watch_response::Message},
};
use tokio::{sync::watch, task::JoinSet};

use super::pause;
use crate::{
    harness::{Filter, Random, Reader, Record, Scope, Seed, TestClient, What},
    invariant::fail_static::{self, ClientOutput, Served},
};

const HEAVY: Filter = Filter { text: "weight != 1", matches: |instance| instance.weight != 1 };
/// Average number of messages after which a reconnecting reader opens another stream.
const PATIENCE: u64 = 40;

/// Starts all readers, each of which reads up to the goal.
pub async fn all(server: SocketAddr, seed: &Seed, goal: &watch::Receiver<Option<u64>>) -> JoinSet<Reader> {
    let prefix = || Scope::Prefix("pay-".to_owned());
    let plans = [
        ("everything", Scope::Everything, Filter::NONE, false),
        ("everything, comes back", Scope::Everything, Filter::NONE, true),
        ("everything, filtered", Scope::Everything, HEAVY, false),
        ("one", Scope::names(&["web"]), Filter::NONE, false),
        ("one, filtered, comes back", Scope::names(&["web"]), HEAVY, true),
        ("several", Scope::names(&["web", "alive", "nobody"]), Filter::NONE, false),
        ("prefix", prefix(), Filter::NONE, false),
        ("prefix, comes back", prefix(), Filter::NONE, true),
        ("nobody", Scope::names(&["nobody"]), Filter::NONE, false),
    ];
    let mut reading = JoinSet::new();
    for (number, (name, scope, filter, comes_back)) in (2_000..).zip(plans) {
        let (goal, random) = (goal.clone(), comes_back.then(|| seed.random(number)));
        let reader = Reader::open(&TestClient::connect(server).await, name, scope, filter).await;
        reading.spawn(follow(reader, goal, random));
    }
    reading
}

async fn follow(mut reader: Reader, mut goal: watch::Receiver<Option<u64>>, mut random: Option<Random>) -> Reader {
    loop {
        let newest = *goal.borrow_and_update();
        if newest.is_some_and(|newest| reader.view.revision >= newest) {
            return reader;
        }
        let went_on = tokio::select! {
            message = reader.message() => message.is_ok(),
            Ok(()) = goal.changed() => continue,
        };
        if !went_on || random.as_mut().is_some_and(|random| random.one_in(PATIENCE)) {
            while reader.reopen().await.is_err() {
                pause().await;
            }
        }
    }
}

/// Collects the events of a watch of the Rust client, and the resulting set.
pub async fn client(server: SocketAddr, mut goal: watch::Receiver<Option<u64>>) -> (Vec<ClientOutput>, Served) {
    let request = WatchRequest { everything: true, ..WatchRequest::default() };
    let mut watch = Watch::new(server.to_string().parse::<Endpoint>().unwrap(), request);
    let (mut outputs, mut known, mut stands) = (Vec::new(), Served::default(), 0);
    while goal.borrow_and_update().is_none_or(|newest| stands < newest) {
        let event = tokio::select! {
            event = watch.next() => event.unwrap(),
            Ok(()) = goal.changed() => continue,
        };
        stands = fail_static::revision_after(&event).unwrap_or(stands);
        if let WatchEvent::Disconnected { retry_in, .. } = &event {
            assert!(*retry_in < Duration::from_secs(6), "{retry_in:?}");
        }
        known.apply(&event).unwrap();
        outputs.push(ClientOutput::Event(event));
    }
    (outputs, known)
}

/// Asserts that a reader received resets for no other reasons than these.
pub fn check_resets(record: &Record, allowed: &[ResetReason]) {
    for observation in &record.observations {
        if let What::Message(message) = &observation.what
            && let Some(Message::Reset(reset)) = &message.message
        {
            assert!(allowed.contains(&reset.reason()), "{} was reset: {:?}", record.reader, reset.reason());
        }
    }
}

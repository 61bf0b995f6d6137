//! A service that no message could hold.

use callboard::pb::callboard::v1::{RegisterRequest, WatchResponse, watch_response::Message};
use prost::Message as _;

use crate::{
    harness::{Filter, InMemory, Reader, Record, Scope, TestServer, What, instance},
    invariant,
};

/// What is promised, in bytes.
const LARGEST: usize = 1024 * 1024;

fn messages(record: &Record) -> impl Iterator<Item = &WatchResponse> {
    record.heard.iter().filter_map(|heard| match &heard.what {
        What::Message(message) => Some(message),
        _ => None,
    })
}

/// How many messages the snapshot had; each is small enough.
fn parts(record: &Record) -> usize {
    let largest = messages(record).map(WatchResponse::encoded_len).max().unwrap();
    assert!(largest <= LARGEST, "{largest} bytes in a message");
    messages(record).filter(|message| matches!(message.message, Some(Message::Snapshot(_)))).count()
}

#[tokio::test]
async fn a_hundred_thousand_instances_arrive_in_parts() {
    const MANY: usize = 100_000;
    let house = InMemory::open();
    house.crowd("web", MANY);
    let mut reader = Reader::synced(&house.peer().await, &["web"]).await;
    assert_eq!(reader.view.set.len(), MANY);
    assert!(parts(&reader.record) > 10);
    invariant::unique::check(&reader.record).unwrap();
    invariant::resumable::check(&reader.record).unwrap();
    house.peer().await.register(instance("web", "one more")).await.unwrap_err();
    house.peer().await.register(instance("web", "one-more")).await.unwrap();
    reader.until("one more", |view| view.set.len() == MANY + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_instances_are_fewer_to_a_message() {
    let house = TestServer::open();
    let peer = house.peer().await;
    let metadata: std::collections::HashMap<_, _> = (0..4).map(|n| (format!("k{n}"), "v".repeat(2_000))).collect();
    let tags: Vec<_> = (0..64).map(|n| format!("{n}-{}", "t".repeat(240))).collect();
    for number in 0..200 {
        let large = RegisterRequest {
            metadata: metadata.clone(),
            tags: tags.clone(),
            ..instance("web", &format!("{number}-{}", "i".repeat(240)))
        };
        peer.register(large).await.unwrap();
    }
    let mut all = Reader::open(&peer, "all", Scope::Everything, Filter::NONE).await;
    all.until("synced", |view| view.revision > 0).await;
    assert_eq!(all.view.set.len(), 200);
    assert!(parts(&all.record) > 3);
    // Changes of all of them at once, for a reader that was away.
    let mut away = all;
    for number in 0..200 {
        let again = RegisterRequest {
            weight: Some(2),
            metadata: metadata.clone(),
            tags: tags.clone(),
            ..instance("web", &format!("{number}-{}", "i".repeat(240)))
        };
        peer.register(again).await.unwrap();
    }
    away.reopen().await.unwrap();
    away.until("all changes", |view| view.set.values().all(|instance| instance.weight == 2)).await;
    parts(&away.record);
    invariant::ordered::check(&away.record).unwrap();
    invariant::resumable::check(&away.record).unwrap();
    let open_steps = messages(&away.record)
        .filter(|message| matches!(&message.message, Some(Message::Changes(changes)) if changes.revision == 0));
    assert!(open_steps.count() > 0, "a step may need several messages");
}

//! Services that are too large for one message.

use callboard::pb::callboard::v1::{RegisterRequest, WatchResponse, watch_response::Message};
use prost::Message as _;

use crate::{
    harness::{Filter, InMemory, Reader, Record, Scope, TestServer, What, instance},
    invariant,
};

/// Maximum size of a message.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

fn messages(record: &Record) -> impl Iterator<Item = &WatchResponse> {
    record.observations.iter().filter_map(|observation| match &observation.what {
        What::Message(message) => Some(message),
        _ => None,
    })
}

/// Returns the number of snapshot messages, and checks their sizes.
fn snapshot_messages(record: &Record) -> usize {
    let largest = messages(record).map(WatchResponse::encoded_len).max().unwrap();
    assert!(largest <= MAX_MESSAGE_BYTES, "{largest} bytes in a message");
    messages(record).filter(|message| matches!(message.message, Some(Message::Snapshot(_)))).count()
}

#[tokio::test]
async fn snapshot_of_a_hundred_thousand_instances_takes_many_messages() {
    const MANY: usize = 100_000;
    let server = InMemory::open();
    server.register_many("web", MANY);
    let mut reader = Reader::synced(&server.client().await, &["web"]).await;
    assert_eq!(reader.view.set.len(), MANY);
    assert!(snapshot_messages(&reader.record) > 10);
    invariant::unique::check(&reader.record).unwrap();
    invariant::resumable::check(&reader.record).unwrap();
    server.client().await.register(instance("web", "one more")).await.unwrap_err();
    server.client().await.register(instance("web", "one-more")).await.unwrap();
    reader.until("one more", |view| view.set.len() == MANY + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_changes_of_large_instances_stay_within_the_message_limit() {
    let server = TestServer::open();
    let client = server.client().await;
    let metadata: std::collections::HashMap<_, _> = (0..4).map(|n| (format!("k{n}"), "v".repeat(2_000))).collect();
    let tags: Vec<_> = (0..64).map(|n| format!("{n}-{}", "t".repeat(240))).collect();
    for number in 0..200 {
        let large = RegisterRequest {
            metadata: metadata.clone(),
            tags: tags.clone(),
            ..instance("web", &format!("{number}-{}", "i".repeat(240)))
        };
        client.register(large).await.unwrap();
    }
    let mut all = Reader::open(&client, "all", Scope::Everything, Filter::NONE).await;
    all.until("synced", |view| view.revision > 0).await;
    assert_eq!(all.view.set.len(), 200);
    assert!(snapshot_messages(&all.record) > 3);
    // Changes of all of them in one step, for a reader that resumes.
    let mut away = all;
    for number in 0..200 {
        let again = RegisterRequest {
            weight: Some(2),
            metadata: metadata.clone(),
            tags: tags.clone(),
            ..instance("web", &format!("{number}-{}", "i".repeat(240)))
        };
        client.register(again).await.unwrap();
    }
    away.reopen().await.unwrap();
    away.until("all changes", |view| view.set.values().all(|instance| instance.weight == 2)).await;
    snapshot_messages(&away.record);
    invariant::ordered::check(&away.record).unwrap();
    invariant::resumable::check(&away.record).unwrap();
    let open_steps = messages(&away.record)
        .filter(|message| matches!(&message.message, Some(Message::Changes(changes)) if changes.revision == 0));
    assert!(open_steps.count() > 0, "a step may need several messages");
}

//! Watch streams of one reader: cases that the history test covers only by chance.

use std::time::Duration;

use bytes::Bytes;
use callboard::{
    pb::callboard::v1::{RegisterRequest, ResetReason, WatchResponse, watch_response::Message},
    registry::MAX_HISTORY_EVENTS,
};

use crate::{
    harness::{Engine, Filter, InMemory, Reader, Scope, TestClient, TestServer, What, instance},
    invariant::{self, ReferenceHistory},
};

async fn register(client: &TestClient, service: &str, id: &str) {
    client.register(instance(service, id)).await.unwrap();
}

/// Checks the record of a reader against the events of the server.
async fn check(client: &TestClient, reader: &Reader) {
    let reference = ReferenceHistory::gather(client.events().await, [&reader.record], []).unwrap();
    invariant::check_record(&reader.record, &reference).unwrap();
}

/// Reads up to the newest revision.
async fn catch_up(client: &TestClient, reader: &mut Reader) {
    let newest = client.events().await.last().unwrap().revision;
    reader.until("the newest revision", |view| view.revision >= newest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_before_the_first_registration_is_synced_and_then_gets_it() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut readers = Vec::new();
    for scope in [Scope::names(&["web"]), Scope::names(&["db", "web"]), Scope::Prefix("we".into()), Scope::Everything] {
        let mut reader = Reader::open(&client, &format!("{scope:?}"), scope, Filter::NONE).await;
        reader.until("synced", |view| view.revision > 0).await;
        assert!(reader.view.set.is_empty());
        readers.push(reader);
    }
    register(&client, "web", "a").await;
    for reader in &mut readers {
        reader.until("the first registration", |view| view.get("web", "a").is_some()).await;
        check(&client, reader).await;
    }
}

/// Regression: a step that was folded to one change had the revision of that change, although it covered later ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folded_step_has_the_revision_of_its_last_event() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web", "db"]).await;
    register(&client, "web", "a").await;
    reader.until("a", |view| view.get("web", "a").is_some()).await;
    // While it is away, one instance is registered between the registration and the removal of another.
    register(&client, "db", "short").await;
    register(&client, "web", "b").await;
    let left = client.deregister("db", "short", &Bytes::new()).await.unwrap().unwrap();
    reader.reopen().await.unwrap();
    reader.until("b", |view| view.get("web", "b").is_some()).await;
    assert_eq!(reader.view.revision, left);
    check(&client, &reader).await;
}

fn reason(message: &WatchResponse) -> Option<ResetReason> {
    match &message.message {
        Some(Message::Reset(reset)) => Some(reset.reason()),
        _ => None,
    }
}

/// Returns the first message of a stream of `web` with this token.
async fn first_message(client: &TestClient, token: Bytes) -> WatchResponse {
    let mut reader = Reader::of(client, &["web"]).await;
    reader.view.token = token;
    reader.reopen().await.unwrap();
    reader.message().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_that_does_not_fit_is_answered_with_reset_and_reason() {
    let (server, other) = (TestServer::open(), TestServer::open());
    let (client, other_client) = (server.client().await, other.client().await);
    register(&client, "web", "a").await;
    register(&other_client, "web", "a").await;
    let token = Reader::synced(&client, &["web"]).await.view.token;
    assert_eq!(reason(&first_message(&client, token.clone()).await), None, "it fits");
    let elsewhere = Reader::synced(&other_client, &["web"]).await.view.token;
    assert_eq!(reason(&first_message(&client, elsewhere).await), Some(ResetReason::OtherIncarnation));
    let selection = Reader::synced(&client, &["web", "db"]).await.view.token;
    assert_eq!(reason(&first_message(&client, selection).await), Some(ResetReason::OtherSelector));
    // Revision 1 is no longer in the history. The revision is the second number of a token.
    let mut old = token.to_vec();
    old[9..17].copy_from_slice(&1_u64.to_be_bytes());
    assert_eq!(reason(&first_message(&client, old.into()).await), Some(ResetReason::Compacted));
    let mut future = token.to_vec();
    future[9..17].copy_from_slice(&(u64::MAX >> 1).to_be_bytes());
    if Engine::usual() == Engine::Etcd {
        return; // another replica may have such a revision, and the watch waits for it
    }
    assert_eq!(reason(&first_message(&client, future.into()).await), Some(ResetReason::FutureRevision));
}

#[tokio::test]
async fn reader_behind_the_history_gets_a_reset_on_its_open_stream() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "web", "a").await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    server.flood("web", "a", MAX_HISTORY_EVENTS + 1);
    reader.until("the newest revision", |view| view.revision >= server.revision()).await;
    assert_eq!(reader.view.resets, 1);
    assert_eq!(reader.view.set.len(), 1);
    register(&client, "web", "b").await;
    reader.until("b", |view| view.set.len() == 2).await;
    invariant::ordered::check(&reader.record).unwrap();
    invariant::unique::check(&reader.record).unwrap();
    invariant::resumable::check(&reader.record).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookmarks_advance_the_token_through_changes_of_other_services() {
    let server = TestServer::with(|config| config.bookmark_interval = Duration::from_millis(50));
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["quiet"]).await;
    register(&client, "loud", "a").await;
    catch_up(&client, &mut reader).await;
    check(&client, &reader).await;
    let last = reader.record.observations.last().unwrap();
    let What::Message(WatchResponse { message: Some(Message::Bookmark(_)) }) = &last.what else {
        panic!("{last:?} is no bookmark");
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_and_new_registration_are_folded_to_an_update() {
    let server = TestServer::open();
    let client = server.client().await;
    register(&client, "web", "a").await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let before = reader.view.get("web", "a").unwrap().registered_revision;
    client.deregister("web", "a", &Bytes::new()).await.unwrap();
    let again = RegisterRequest { boot_id: "again".to_owned(), ..instance("web", "a") };
    client.register(again).await.unwrap();
    reader.reopen().await.unwrap();
    reader
        .until("its return", |view| view.get("web", "a").is_some_and(|instance| instance.registered_revision > before))
        .await;
    check(&client, &reader).await;
}

//! What one reader is told: cases that the history test meets only by chance.

use std::time::Duration;

use bytes::Bytes;
use callboard::{
    pb::callboard::v1::{RegisterRequest, ResetReason, WatchResponse, watch_response::Message},
    registry::MAX_HISTORY_EVENTS,
};

use crate::{
    harness::{Filter, InMemory, Reader, Scope, TestClient, TestServer, What, instance},
    invariant::{self, ReferenceHistory},
};

async fn register(peer: &TestClient, service: &str, id: &str) {
    peer.register(instance(service, id)).await.unwrap();
}

/// Checks the reader against all that happened.
async fn check(peer: &TestClient, reader: &Reader) {
    let truth = ReferenceHistory::gather(peer.events().await, [&reader.record], []).unwrap();
    invariant::check_record(&reader.record, &truth).unwrap();
}

/// Reads up to the newest revision.
async fn catch_up(peer: &TestClient, reader: &mut Reader) {
    let newest = peer.events().await.last().unwrap().revision;
    reader.until("the newest revision", |view| view.revision >= newest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_before_registration() {
    let house = TestServer::open();
    let peer = house.peer().await;
    let mut readers = Vec::new();
    for scope in [Scope::names(&["web"]), Scope::names(&["db", "web"]), Scope::Prefix("we".into()), Scope::Everything] {
        let mut reader = Reader::open(&peer, &format!("{scope:?}"), scope, Filter::NONE).await;
        reader.until("synced", |view| view.revision > 0).await;
        assert!(reader.view.set.is_empty());
        readers.push(reader);
    }
    register(&peer, "web", "a").await;
    for reader in &mut readers {
        reader.until("the first registration", |view| view.get("web", "a").is_some()).await;
        check(&peer, reader).await;
    }
}

/// A regression: a step of which folding left one difference was told as of that difference's revision, though it held
/// more than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folded_step_is_told_as_of_all_that_went_into_it() {
    let house = TestServer::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web", "db"]).await;
    register(&peer, "web", "a").await;
    reader.until("a", |view| view.get("web", "a").is_some()).await;
    // While it is away, one comes and stays, and one that came before it goes after it.
    register(&peer, "db", "short").await;
    register(&peer, "web", "b").await;
    let left = peer.deregister("db", "short", &Bytes::new()).await.unwrap().unwrap();
    reader.reopen().await.unwrap();
    reader.until("b", |view| view.get("web", "b").is_some()).await;
    assert_eq!(reader.view.revision, left);
    check(&peer, &reader).await;
}

fn reason(message: &WatchResponse) -> Option<ResetReason> {
    match &message.message {
        Some(Message::Reset(reset)) => Some(reset.reason()),
        _ => None,
    }
}

/// What a stream of `web` says first to this token.
async fn first_word(peer: &TestClient, token: Bytes) -> WatchResponse {
    let mut reader = Reader::of(peer, &["web"]).await;
    reader.view.token = token;
    reader.reopen().await.unwrap();
    reader.message().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_fit_start_over_with_the_reason() {
    let (house, other) = (TestServer::open(), TestServer::open());
    let (peer, stranger) = (house.peer().await, other.peer().await);
    register(&peer, "web", "a").await;
    register(&stranger, "web", "a").await;
    let token = Reader::synced(&peer, &["web"]).await.view.token;
    assert_eq!(reason(&first_word(&peer, token.clone()).await), None, "it fits");
    let elsewhere = Reader::synced(&stranger, &["web"]).await.view.token;
    assert_eq!(reason(&first_word(&peer, elsewhere).await), Some(ResetReason::OtherIncarnation));
    let selection = Reader::synced(&peer, &["web", "db"]).await.view.token;
    assert_eq!(reason(&first_word(&peer, selection).await), Some(ResetReason::OtherSelector));
    // Revision 1 is long past; the revision is the second number of a token.
    let mut old = token.to_vec();
    old[9..17].copy_from_slice(&1_u64.to_be_bytes());
    assert_eq!(reason(&first_word(&peer, old.into()).await), Some(ResetReason::Compacted));
    let mut future = token.to_vec();
    future[9..17].copy_from_slice(&(u64::MAX >> 1).to_be_bytes());
    assert_eq!(reason(&first_word(&peer, future.into()).await), Some(ResetReason::FutureRevision));
}

#[tokio::test]
async fn who_falls_out_of_history_starts_over_on_the_open_stream() {
    let house = InMemory::open();
    let peer = house.peer().await;
    register(&peer, "web", "a").await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    house.flood("web", "a", MAX_HISTORY_EVENTS + 1);
    reader.until("the newest revision", |view| view.revision >= house.revision()).await;
    assert_eq!(reader.view.resets, 1);
    assert_eq!(reader.view.set.len(), 1);
    register(&peer, "web", "b").await;
    reader.until("b", |view| view.set.len() == 2).await;
    invariant::ordered::check(&reader.record).unwrap();
    invariant::unique::check(&reader.record).unwrap();
    invariant::resumable::check(&reader.record).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_stay_young_through_changes_elsewhere() {
    let house = TestServer::with(|config| config.bookmark_interval = Duration::from_millis(50));
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["quiet"]).await;
    register(&peer, "loud", "a").await;
    catch_up(&peer, &mut reader).await;
    check(&peer, &reader).await;
    let last = reader.record.heard.last().unwrap();
    let What::Message(WatchResponse { message: Some(Message::Bookmark(_)) }) = &last.what else {
        panic!("{last:?} is no bookmark");
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_and_return_is_an_update_with_a_new_boot() {
    let house = TestServer::open();
    let peer = house.peer().await;
    register(&peer, "web", "a").await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let before = reader.view.get("web", "a").unwrap().registered_revision;
    peer.deregister("web", "a", &Bytes::new()).await.unwrap();
    let again = RegisterRequest { boot_id: "again".to_owned(), ..instance("web", "a") };
    peer.register(again).await.unwrap();
    reader.reopen().await.unwrap();
    reader
        .until("its return", |view| view.get("web", "a").is_some_and(|instance| instance.registered_revision > before))
        .await;
    check(&peer, &reader).await;
}

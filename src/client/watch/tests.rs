use super::*;
use crate::pb::callboard::v1::{Bookmark, Changes, Removal, Reset, Snapshot, Staleness, Synced};

fn message(message: Message) -> WatchResponse {
    WatchResponse { message: Some(message) }
}

fn snapshot(ids: &[&str]) -> WatchResponse {
    let instances =
        ids.iter().map(|id| Instance { service: "web".to_owned(), id: (*id).to_owned(), ..Instance::default() });
    message(Message::Snapshot(Snapshot { instances: instances.collect() }))
}

fn synced(revision: u64) -> WatchResponse {
    message(Message::Synced(Synced { revision, resume_token: token(revision) }))
}

fn gone(id: &str, revision: u64) -> WatchResponse {
    let removal = Removal { service: "web".to_owned(), id: id.to_owned(), ..Removal::default() };
    message(Message::Changes(Changes {
        changes: vec![Change { change: Some(change::Change::Removed(removal)) }],
        revision,
        resume_token: if revision == 0 { Bytes::new() } else { token(revision) },
    }))
}

fn reset(reason: ResetReason) -> WatchResponse {
    message(Message::Reset(Reset { reason: reason.into() }))
}

fn token(revision: u64) -> Bytes {
    Bytes::from(format!("token {revision}"))
}

#[test]
fn changes_of_a_revision_are_one_event_and_update_the_token() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    assert!(reader.read(gone("a", 0)).is_none());
    assert_eq!(reader.token, token(7));
    let Some(WatchEvent::Changes { changes, revision: 9 }) = reader.read(gone("b", 9)) else {
        panic!("no changes");
    };
    assert_eq!((changes.len(), reader.token.clone()), (2, token(9)));
}

#[test]
fn weights_of_a_large_service_are_one_event() {
    let part = |id: &str, more: bool| {
        let weights = vec![EffectiveWeight { id: id.to_owned(), weight: 0.5 }];
        message(Message::Balancing(Balancing { weights, more, ..Balancing::default() }))
    };
    let mut reader = WatchReader::default();
    assert!(reader.read(part("lost", true)).is_none());
    assert!(reader.stream_opened().is_none());
    assert!(reader.read(part("a", true)).is_none());
    for ids in [vec!["a", "b"], vec!["b"]] {
        let Some(WatchEvent::Balancing(balancing)) = reader.read(part("b", false)) else { panic!("no weights") };
        assert_eq!(balancing.weights.iter().map(|weight| &*weight.id).collect::<Vec<_>>(), ids);
    }
}

#[test]
fn incomplete_changes_are_discarded_when_the_stream_breaks() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    reader.read(gone("a", 0));
    assert!(reader.stream_opened().is_none(), "no incomplete snapshot has to be taken back");
    let Some(WatchEvent::Changes { changes, .. }) = reader.read(gone("b", 9)) else {
        panic!("no changes");
    };
    assert_eq!(changes.len(), 1);
}

#[test]
fn incomplete_snapshot_is_reset_when_the_stream_breaks() {
    let mut reader = WatchReader::default();
    reader.read(snapshot(&["a"]));
    assert!(matches!(reader.stream_opened(), Some(WatchEvent::Reset(ResetCause::Interrupted))));
    reader.read(snapshot(&["a"]));
    reader.read(synced(7));
    assert!(reader.stream_opened().is_none());
}

#[test]
fn reset_keeps_the_old_token_until_the_next_snapshot_is_complete() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    let event = reader.read(reset(ResetReason::Compacted));
    assert!(matches!(event, Some(WatchEvent::Reset(ResetCause::Compacted))));
    reader.read(snapshot(&["a"]));
    assert_eq!(reader.token, token(7));
    assert!(!reader.resumed_after_reset(&synced(9)), "the stream sends the snapshot");
    assert!(matches!(reader.stream_opened(), Some(WatchEvent::Reset(ResetCause::Interrupted))));
    assert!(!reader.resumed_after_reset(&reset(ResetReason::Compacted)), "the stream sends another snapshot");
    assert!(reader.resumed_after_reset(&synced(9)) && reader.resumed_after_reset(&gone("a", 9)));
    reader.read(reset(ResetReason::Compacted));
    reader.read(synced(9));
    assert_eq!(reader.token, token(9));
    reader.stream_opened();
    assert!(!reader.resumed_after_reset(&synced(9)), "the stream resumed as expected");
}

#[test]
fn bookmark_updates_the_token() {
    let mut reader = WatchReader::default();
    let bookmark = |revision, staleness| {
        message(Message::Bookmark(Bookmark { revision, resume_token: token(revision), staleness }))
    };
    assert!(matches!(reader.read(bookmark(8, None)), Some(WatchEvent::Bookmark { revision: 8 })));
    assert_eq!(reader.token, token(8));
    let age = Duration::from_millis(4_500);
    let staleness = Staleness { age: age.try_into().ok(), revision: 9 };
    let event = reader.read(bookmark(9, Some(staleness)));
    assert!(matches!(event, Some(WatchEvent::Degraded { revision: 9, age: received }) if received == age));
    assert_eq!(reader.token, token(9));
}

#[cfg(feature = "server")]
mod over_a_connection {
    use tonic::Status;

    use super::*;
    use crate::client::{fake::FakeRegistry, now};

    fn request() -> WatchRequest {
        WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn reconnected_watch_resumes_with_its_last_token() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let first = async {
            let (request, responses) = fake.watch().await;
            assert_eq!((request.services.as_slice(), request.resume_token.len()), (["web".to_owned()].as_slice(), 0));
            responses.send(Ok(snapshot(&["a"]))).await.unwrap();
            responses.send(Ok(synced(7))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), first);
        assert!(matches!(event, Ok(WatchEvent::Snapshot(instances)) if instances.len() == 1));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 7 })));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { error: ClientError::StreamEnded, .. })));
        let second = async {
            let (request, responses) = fake.watch().await;
            assert_eq!(request.resume_token, token(7));
            responses.send(Ok(synced(8))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), second);
        assert!(matches!(event, Ok(WatchEvent::Reconnected { .. })));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 8 })));
        assert_eq!(watch.token(), &token(8));
    }

    #[tokio::test(start_paused = true)]
    async fn disconnected_watch_retries_at_least_every_five_seconds() {
        let mut fake = FakeRegistry::start();
        fake.set_down(true);
        let mut watch = Watch::over(fake.connect(), request());
        for _ in 0..20 {
            let before = now();
            let event = watch.next().await;
            assert!(matches!(event, Ok(WatchEvent::Disconnected { error: ClientError::Connect(_), .. })), "{event:?}");
            assert!(before.elapsed() <= Backoff::MAX_DELAY, "{:?}", before.elapsed());
        }
        fake.set_down(false);
        let (event, _) = tokio::join!(watch.next(), fake.watch());
        assert!(matches!(event, Ok(WatchEvent::Reconnected { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_rejection_is_an_error() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let reject = async {
            let (_, responses) = fake.watch().await;
            responses.send(Err(Status::invalid_argument("no such field"))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), reject);
        assert!(matches!(event, Err(ClientError::Rejected(_))), "{event:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn registry_that_hangs_is_given_up() {
        let (near, _far) = tokio::io::duplex(64 * 1024);
        let mut near = Some(near);
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let near = near.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            async move { near.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://hangs").connect_with_connector_lazy(connector);
        let (mut watch, before) = (Watch::on(&channel, request()), now());
        let event = tokio::time::timeout(Duration::from_mins(1), watch.next()).await.unwrap();
        assert!(matches!(&event, Ok(WatchEvent::Disconnected { error: ClientError::Timeout(_), .. })), "{event:?}");
        assert_eq!(before.elapsed().as_secs(), OPEN_TIMEOUT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn reconnect_notice_opens_another_stream() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let first = async {
            let (_, responses) = fake.watch().await;
            responses.send(Ok(synced(7))).await.unwrap();
            responses.send(Ok(message(Message::Notice(Notice::Reconnect.into())))).await.unwrap();
            responses
        };
        let (_, _still_open) = tokio::join!(watch.next(), first);
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { error: ClientError::GoingAway, .. })));
        let (event, (request, _)) = tokio::join!(watch.next(), fake.watch());
        assert!(matches!(event, Ok(WatchEvent::Reconnected { .. })));
        assert_eq!(request.resume_token, token(7));
    }

    #[tokio::test(start_paused = true)]
    async fn settling_registry_is_waited_for() {
        let mut fake = FakeRegistry::start();
        let resumes = WatchRequest { resume_token: token(7), ..request() };
        let mut watch = Watch::over(fake.connect(), resumes);
        let opens = async {
            let (request, responses) = fake.watch().await;
            assert_eq!(request.resume_token, token(7));
            responses.send(Ok(message(Message::Notice(Notice::Settling.into())))).await.unwrap();
            responses
        };
        let (event, responses) = tokio::join!(watch.next(), opens);
        assert!(matches!(event, Ok(WatchEvent::Settling)), "{event:?}");
        let silence = Duration::from_mins(10);
        tokio::time::timeout(silence, watch.next()).await.expect_err("the watch does not give up");
        assert_eq!(watch.token(), &token(7));
        responses.send(Ok(reset(ResetReason::OtherIncarnation))).await.unwrap();
        assert!(matches!(watch.next().await, Ok(WatchEvent::Reset(ResetCause::OtherIncarnation))));
    }

    #[tokio::test(start_paused = true)]
    async fn token_accepted_after_a_reset_is_dropped_to_get_a_snapshot() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), WatchRequest { resume_token: token(7), ..request() });
        let first = async {
            let (_, responses) = fake.watch().await;
            responses.send(Ok(reset(ResetReason::Compacted))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), first);
        assert!(matches!(event, Ok(WatchEvent::Reset(ResetCause::Compacted))), "{event:?}");
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { .. })));
        let others = async {
            let (request, responses) = fake.watch().await;
            assert_eq!(request.resume_token, token(7), "the old token shows that the program still has instances");
            responses.send(Ok(synced(8))).await.unwrap();
            let (request, responses) = fake.watch().await;
            assert!(request.resume_token.is_empty(), "a stream without a token begins with a snapshot");
            responses.send(Ok(snapshot(&["a"]))).await.unwrap();
            responses.send(Ok(synced(9))).await.unwrap();
            responses
        };
        let events = async {
            assert!(matches!(watch.next().await, Ok(WatchEvent::Reconnected { .. })));
            assert!(matches!(watch.next().await, Ok(WatchEvent::Snapshot(_))));
            assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 9 })));
        };
        let (_open, ()) = tokio::join!(others, events);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_next_loses_no_event() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let (_, (_, responses)) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(1), watch.next()).await.unwrap_err() },
            fake.watch()
        );
        responses.send(Ok(synced(7))).await.unwrap();
        responses.send(Ok(gone("a", 9))).await.unwrap();
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 7 })));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Changes { revision: 9, .. })));
    }
}

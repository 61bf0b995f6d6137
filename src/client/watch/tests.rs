use super::*;
use crate::pb::callboard::v1::{Bookmark, Changes, Removal, Reset, Snapshot, Synced};

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
fn a_step_is_told_whole_and_moves_the_token_at_its_end() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    assert!(reader.read(gone("a", 0)).is_none());
    assert_eq!(reader.token, token(7));
    let Some(WatchEvent::Changes { changes, revision: 9 }) = reader.read(gone("b", 9)) else {
        panic!("no step");
    };
    assert_eq!((changes.len(), reader.token.clone()), (2, token(9)));
}

#[test]
fn half_a_step_is_forgotten_when_the_stream_breaks() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    reader.read(gone("a", 0));
    assert!(reader.begin().is_none(), "the token still fits: nothing was told that has to be taken back");
    let Some(WatchEvent::Changes { changes, .. }) = reader.read(gone("b", 9)) else {
        panic!("no step");
    };
    assert_eq!(changes.len(), 1);
}

#[test]
fn half_a_snapshot_is_taken_back_when_the_stream_breaks() {
    let mut reader = WatchReader::default();
    reader.read(snapshot(&["a"]));
    assert!(matches!(reader.begin(), Some(WatchEvent::Reset(ResetCause::Interrupted))));
    reader.read(snapshot(&["a"]));
    reader.read(synced(7));
    assert!(reader.begin().is_none());
}

#[test]
fn after_a_reset_the_old_token_stays_until_there_is_another_set() {
    let mut reader = WatchReader::default();
    reader.read(synced(7));
    let told = reader.read(reset(ResetReason::Compacted));
    assert!(matches!(told, Some(WatchEvent::Reset(ResetCause::Compacted))));
    reader.read(snapshot(&["a"]));
    assert_eq!(reader.token, token(7));
    assert!(!reader.fits_after_all(&synced(9)), "the snapshot is coming");
    assert!(matches!(reader.begin(), Some(WatchEvent::Reset(ResetCause::Interrupted))));
    assert!(!reader.fits_after_all(&reset(ResetReason::Compacted)), "another snapshot is coming");
    assert!(reader.fits_after_all(&synced(9)) && reader.fits_after_all(&gone("a", 9)));
    reader.read(reset(ResetReason::Compacted));
    reader.read(synced(9));
    assert_eq!(reader.token, token(9));
    reader.begin();
    assert!(!reader.fits_after_all(&synced(9)), "as it should");
}

#[test]
fn a_bookmark_moves_the_token() {
    let mut reader = WatchReader::default();
    let bookmark = Bookmark { revision: 8, resume_token: token(8) };
    let told = reader.read(message(Message::Bookmark(bookmark)));
    assert!(matches!(told, Some(WatchEvent::Bookmark { revision: 8 })));
    assert_eq!(reader.token, token(8));
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
    async fn it_resumes_with_its_last_token() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let first = async {
            let (asked, answers) = fake.watch().await;
            assert_eq!((asked.services.as_slice(), asked.resume_token.len()), (["web".to_owned()].as_slice(), 0));
            answers.send(Ok(snapshot(&["a"]))).await.unwrap();
            answers.send(Ok(synced(7))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), first);
        assert!(matches!(event, Ok(WatchEvent::Snapshot(instances)) if instances.len() == 1));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 7 })));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { error: ClientError::Ended, .. })));
        let second = async {
            let (asked, answers) = fake.watch().await;
            assert_eq!(asked.resume_token, token(7));
            answers.send(Ok(synced(8))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), second);
        assert!(matches!(event, Ok(WatchEvent::Reconnected)));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 8 })));
        assert_eq!(watch.token(), &token(8));
    }

    #[tokio::test(start_paused = true)]
    async fn it_tries_on_at_least_every_five_seconds() {
        let mut fake = FakeRegistry::start();
        fake.set_down(true);
        let mut watch = Watch::over(fake.connect(), request());
        for _ in 0..20 {
            let before = now();
            let event = watch.next().await;
            assert!(
                matches!(event, Ok(WatchEvent::Disconnected { error: ClientError::Transport(_), .. })),
                "{event:?}"
            );
            assert!(before.elapsed() <= Backoff::LONGEST, "{:?}", before.elapsed());
        }
        fake.set_down(false);
        let (event, _) = tokio::join!(watch.next(), fake.watch());
        assert!(matches!(event, Ok(WatchEvent::Reconnected)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_an_error() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let refuse = async {
            let (_, answers) = fake.watch().await;
            answers.send(Err(Status::invalid_argument("no such field"))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), refuse);
        assert!(matches!(event, Err(ClientError::Refused(_))), "{event:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn told_to_reconnect_it_opens_another_stream() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let first = async {
            let (_, answers) = fake.watch().await;
            answers.send(Ok(synced(7))).await.unwrap();
            answers.send(Ok(message(Message::Notice(Notice::Reconnect.into())))).await.unwrap();
            answers
        };
        let (_, _still_open) = tokio::join!(watch.next(), first);
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { error: ClientError::GoingAway, .. })));
        let (event, (asked, _)) = tokio::join!(watch.next(), fake.watch());
        assert!(matches!(event, Ok(WatchEvent::Reconnected)));
        assert_eq!(asked.resume_token, token(7));
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_a_registry_that_settles() {
        let mut fake = FakeRegistry::start();
        let resumes = WatchRequest { resume_token: token(7), ..request() };
        let mut watch = Watch::over(fake.connect(), resumes);
        let opens = async {
            let (asked, answers) = fake.watch().await;
            assert_eq!(asked.resume_token, token(7));
            answers.send(Ok(message(Message::Notice(Notice::Settling.into())))).await.unwrap();
            answers
        };
        let (event, answers) = tokio::join!(watch.next(), opens);
        assert!(matches!(event, Ok(WatchEvent::Settling)), "{event:?}");
        let silence = Duration::from_mins(10);
        tokio::time::timeout(silence, watch.next()).await.expect_err("it does not give up, however long it takes");
        assert_eq!(watch.token(), &token(7));
        answers.send(Ok(reset(ResetReason::OtherIncarnation))).await.unwrap();
        assert!(matches!(watch.next().await, Ok(WatchEvent::Reset(ResetCause::OtherIncarnation))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_fits_after_all_is_not_gone_on_from_once_the_program_was_reset() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), WatchRequest { resume_token: token(7), ..request() });
        let first = async {
            let (_, answers) = fake.watch().await;
            answers.send(Ok(reset(ResetReason::Compacted))).await.unwrap();
        };
        let (event, ()) = tokio::join!(watch.next(), first);
        assert!(matches!(event, Ok(WatchEvent::Reset(ResetCause::Compacted))), "{event:?}");
        assert!(matches!(watch.next().await, Ok(WatchEvent::Disconnected { .. })));
        let others = async {
            let (asked, answers) = fake.watch().await;
            assert_eq!(asked.resume_token, token(7), "it says that it remembers something");
            answers.send(Ok(synced(8))).await.unwrap();
            let (asked, answers) = fake.watch().await;
            assert!(asked.resume_token.is_empty(), "and asks for the snapshot that the program waits for");
            answers.send(Ok(snapshot(&["a"]))).await.unwrap();
            answers.send(Ok(synced(9))).await.unwrap();
            answers
        };
        let told = async {
            assert!(matches!(watch.next().await, Ok(WatchEvent::Reconnected)));
            assert!(matches!(watch.next().await, Ok(WatchEvent::Snapshot(_))));
            assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 9 })));
        };
        let (_open, ()) = tokio::join!(others, told);
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_next_loses_nothing() {
        let mut fake = FakeRegistry::start();
        let mut watch = Watch::over(fake.connect(), request());
        let (_, (_, answers)) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(1), watch.next()).await.unwrap_err() },
            fake.watch()
        );
        answers.send(Ok(synced(7))).await.unwrap();
        answers.send(Ok(gone("a", 9))).await.unwrap();
        assert!(matches!(watch.next().await, Ok(WatchEvent::Synced { revision: 7 })));
        assert!(matches!(watch.next().await, Ok(WatchEvent::Changes { revision: 9, .. })));
    }
}

//! Program that registers with the Rust client, and a client that watches it, while their registry moves.

use callboard::{
    client::{Registration, RegistrationEvent, Servers, Watch, WatchEvent},
    pb::callboard::v1::{RegisterRequest, WatchRequest, change::Change},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use crate::harness::{instance, seconds, within};

/// Service of the program.
pub const SERVICE: &str = "moving";
/// Id of the program.
pub const PROGRAM: &str = "program";

/// Program with a lease of six seconds, and a watch of its service that panics if the program is missing.
#[derive(Debug)]
pub struct MovingProgram {
    events: UnboundedReceiver<RegistrationEvent>,
    synced: UnboundedReceiver<()>,
    watching: JoinHandle<()>,
    _registration: Registration,
}

impl MovingProgram {
    /// Starts the program at a registry. Returns its lease id, too.
    pub async fn start(grpc: &str) -> (Self, bytes::Bytes) {
        let servers: Servers = grpc.parse().unwrap();
        let request = RegisterRequest { ttl: seconds(6.0), boot_id: String::new(), ..instance(SERVICE, PROGRAM) };
        let (sender, mut events) = unbounded_channel();
        let registration = Registration::start(servers.clone(), request, move |event| drop(sender.send(event)));
        let lease = registered(&mut events, false).await;
        let (sender, synced) = unbounded_channel();
        let watching = tokio::spawn(watch(servers, sender));
        let mut program = Self { events, synced, watching, _registration: registration.unwrap() };
        program.is_seen().await;
        (program, lease)
    }

    /// Waits until the program has registered again, because its lease was unknown. Returns its new lease id.
    pub async fn registers_again(&mut self) -> bytes::Bytes {
        registered(&mut self.events, true).await
    }

    /// Waits until the program goes on under the lease that it had.
    pub async fn resumes(&mut self) {
        let resumed = async {
            loop {
                match self.events.recv().await.unwrap() {
                    RegistrationEvent::Resumed { .. } => return,
                    RegistrationEvent::Interrupted { .. } | RegistrationEvent::Updated { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        within("the same lease", resumed).await;
    }

    /// Waits until the watch has a complete set of instances, which includes the program.
    pub async fn is_seen(&mut self) {
        if within("a snapshot", self.synced.recv()).await.is_none() {
            (&mut self.watching).await.unwrap();
        }
    }

    /// Asserts that no watch has missed the program.
    pub fn assert_never_missed(&self) {
        assert!(!self.watching.is_finished(), "the watch has missed the program");
    }
}

async fn registered(events: &mut UnboundedReceiver<RegistrationEvent>, expected_again: bool) -> bytes::Bytes {
    let registered = async {
        loop {
            match events.recv().await.unwrap() {
                RegistrationEvent::Registered { lease_id, again, .. } => {
                    assert_eq!(again, expected_again);
                    return lease_id;
                }
                RegistrationEvent::Interrupted { .. } | RegistrationEvent::Updated { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    within("a registration", registered).await
}

async fn watch(servers: Servers, synced: UnboundedSender<()>) {
    let request = WatchRequest { services: vec![SERVICE.to_owned()], ..WatchRequest::default() };
    let (mut watch, mut is_found) = (Watch::new(servers, request), false);
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Reset(_) => is_found = false,
            WatchEvent::Snapshot(instances) => is_found |= instances.iter().any(|instance| instance.id == PROGRAM),
            WatchEvent::Synced { .. } => {
                assert!(is_found, "the snapshot lacks the program");
                let _ended = synced.send(());
            }
            WatchEvent::Changes { changes, .. } => {
                let is_removal = |change: &Change| matches!(change, Change::Removed(removal) if removal.id == PROGRAM);
                assert!(!changes.iter().any(is_removal), "the program was removed: {changes:?}");
            }
            WatchEvent::Bookmark { .. }
            | WatchEvent::Balancing(_)
            | WatchEvent::Degraded { .. }
            | WatchEvent::Settling
            | WatchEvent::Disconnected { .. }
            | WatchEvent::Reconnected { .. } => {}
        }
    }
}

//! Instances and a watch of the Rust client, with all replicas as its servers.

use std::collections::BTreeSet;

use callboard::{
    client::{Registration, RegistrationEvent, Servers, Watch, WatchEvent},
    pb::callboard::v1::{RegisterRequest, WatchRequest},
};
use tokio::sync::watch;

use super::work::LIBRARY_TTL;
use crate::{
    harness::wall,
    invariant::{
        fail_static::{ClientOutput, Served},
        live_present::Disappearance,
    },
};

/// Outputs of a watch of the Rust client, and the instances that it lost.
#[derive(Debug, Default)]
pub struct LibraryWatch {
    pub outputs: Vec<ClientOutput>,
    served: Served,
    pub lost: Vec<Disappearance>,
}

/// Keeps an instance registered until the end of the test.
pub async fn register(servers: Servers, request: RegisterRequest, mut over: watch::Receiver<bool>) {
    let request = RegisterRequest { ttl: LIBRARY_TTL.try_into().ok(), ..request };
    let id = request.id.clone();
    let registration = Registration::start(servers, request, move |event| {
        if let RegistrationEvent::Ended(end) = event {
            println!("{id}: {end:?}");
        }
    })
    .unwrap();
    tokio::select! {
        _ = over.wait_for(|over| *over) => {}
        end = registration.ended() => panic!("the registration ended: {end:?}"),
    }
}

/// Watches everything until the end of the test.
pub async fn watch(servers: Servers, mut over: watch::Receiver<bool>) -> LibraryWatch {
    let mut watch = Watch::new(servers, WatchRequest { everything: true, ..WatchRequest::default() });
    let mut seen = LibraryWatch::default();
    loop {
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return seen,
            event = watch.next() => match event {
                Ok(event) => seen.take(event),
                Err(error) => seen.outputs.push(ClientOutput::GaveUp(error.to_string())),
            }
        }
    }
}

impl LibraryWatch {
    fn take(&mut self, event: WatchEvent) {
        let known: BTreeSet<_> = self.served.set.keys().cloned().collect();
        self.served.apply(&event).unwrap();
        let at = wall();
        let lost = known.into_iter().filter(|instance| !self.served.set.contains_key(instance));
        self.lost.extend(lost.map(|instance| Disappearance { at, instance }));
        self.outputs.push(ClientOutput::Event(event));
    }
}

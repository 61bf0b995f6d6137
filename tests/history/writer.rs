//! Writer that registers, updates, drains and removes its own instances.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{Instance, LeaseState, RegisterRequest, UpdateInstanceRequest};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::SERVICES;
use crate::{
    harness::{Filter, HeartbeatStream, Key, Random, Reader, Scope, Span, TestClient, instance, key, seconds, wall},
    invariant::{InstanceLifetime, Stop, read_your_writes::ReadBack},
};

/// Milliseconds between two heartbeats of an instance.
const BEAT: u64 = 150;
/// Milliseconds of disconnect grace.
const GRACE: u64 = 250;

/// Results of a writer.
#[derive(Debug, Default)]
pub struct WriterReport {
    pub lifetimes: Vec<InstanceLifetime>,
    pub reads: Vec<ReadBack>,
    /// Instances in the responses to calls.
    pub seen: Vec<Instance>,
}

impl WriterReport {
    pub fn extend(&mut self, other: Self) {
        self.lifetimes.extend(other.lifetimes);
        self.reads.extend(other.reads);
        self.seen.extend(other.seen);
    }
}

/// Client that writes to its own instances.
#[derive(Debug)]
pub struct Writer {
    client: TestClient,
    number: u64,
    random: Random,
    heartbeats: HeartbeatStream,
    slots: Vec<Slot>,
    last_beat: u64,
    boots: u64,
    report: WriterReport,
}

/// State of an instance.
#[derive(Debug)]
struct Slot {
    service: &'static str,
    id: String,
    held: Option<Held>,
    /// True once its heartbeats have stopped, so that it expires soon.
    silent: bool,
}

/// Registration with its lease.
#[derive(Debug)]
struct Held {
    lifetime: InstanceLifetime,
    lease: Bytes,
    request: RegisterRequest,
    /// Stream of its own, for an instance with a disconnect grace.
    heartbeats: Option<HeartbeatStream>,
    /// True once that stream has carried a heartbeat, and so carries the lease.
    carried: bool,
}

impl Writer {
    pub async fn new(client: TestClient, number: u64, random: Random) -> Self {
        let heartbeats = HeartbeatStream::open(&client).await;
        let slot = |(at, service)| Slot { service, id: format!("w{number}-{at}"), held: None, silent: false };
        // Two in each service.
        let slots = SERVICES.iter().chain(&SERVICES).copied().enumerate().map(slot).collect();
        Self { client, number, random, heartbeats, slots, last_beat: 0, boots: 0, report: WriterReport::default() }
    }

    /// Writes for twice this time, then leaves some instances that stay.
    pub async fn write(mut self, half: Duration) -> (WriterReport, Vec<Key>) {
        let start = wall();
        let half = u64::try_from(half.as_millis()).unwrap();
        while wall() < start + 2 * half {
            self.beat().await;
            let slot = usize::try_from(self.random.below(self.slots.len() as u64)).unwrap();
            if self.slots[slot].service != "late" || wall() > start + half {
                self.act(slot).await;
            }
            sleep(Duration::from_millis(self.random.below(3))).await;
        }
        self.settle().await
    }

    /// Sends the heartbeats that are due.
    async fn beat(&mut self) {
        if wall() < self.last_beat + BEAT {
            return;
        }
        self.last_beat = wall();
        let shared = self.slots.iter().filter(|slot| !slot.silent).filter_map(|slot| slot.held.as_ref());
        let leases: Vec<Bytes> =
            shared.filter(|held| held.heartbeats.is_none()).map(|held| held.lease.clone()).collect();
        let (states, span) = self.heartbeats.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
        for (lease, state) in leases.iter().zip(states) {
            self.renewed(lease, state, span);
        }
        for slot in 0..self.slots.len() {
            let Slot { held: Some(held), silent: false, .. } = &mut self.slots[slot] else { continue };
            let Some(heartbeats) = &mut held.heartbeats else { continue };
            held.carried = true;
            let lease = held.lease.clone();
            let (states, span) = heartbeats.beat(&[&lease]).await.unwrap();
            self.renewed(&lease, states[0], span);
        }
    }

    fn renewed(&mut self, lease: &Bytes, state: LeaseState, span: Span) {
        let holds = |slot: &&mut Slot| slot.held.as_ref().is_some_and(|held| held.lease == *lease);
        let slot = self.slots.iter_mut().find(holds).unwrap();
        match state {
            LeaseState::Held => slot.held.as_mut().unwrap().lifetime.renewals.push(span),
            // This test was stalled for longer than the TTL.
            LeaseState::Unknown => self.report.lifetimes.extend(slot.held.take().map(|held| held.lifetime)),
            other => panic!("{}: {other:?}", slot.id),
        }
    }

    async fn act(&mut self, slot: usize) {
        let choice = self.random.below(20);
        match (&self.slots[slot].held, self.slots[slot].silent) {
            (None, _) => self.register(slot, false).await,
            (Some(_), true) => self.check_silent(slot, choice).await,
            (Some(_), false) => match choice {
                0..=4 => self.update(slot).await,
                5..=8 => self.drain(slot).await,
                9..=11 => self.register_again(slot).await,
                12..=14 => self.deregister(slot).await,
                15 => self.register(slot, true).await,
                16 => self.register_other_boot(slot).await,
                _ => self.stop_heartbeats(slot),
            },
        }
    }

    /// Registers a new boot: on an unused id, or with `replace` instead of a live one.
    async fn register(&mut self, slot: usize, replace: bool) {
        self.boots += 1;
        let has_grace = self.random.one_in(3);
        let ttl = if has_grace { 3_000 } else { 1_000 + 500 * self.random.below(2) };
        let Slot { service, id, .. } = &self.slots[slot];
        let mut request = RegisterRequest {
            boot_id: format!("boot-{}-{}", self.number, self.boots),
            ttl: seconds(0.001 * f64::from(u32::try_from(ttl).unwrap())),
            disconnect_grace: has_grace.then(|| seconds(0.001 * f64::from(u32::try_from(GRACE).unwrap()))).flatten(),
            replace,
            starting: self.random.one_in(5),
            ..instance(service, id)
        };
        self.describe(&mut request);
        self.take_place(slot, request, ttl, has_grace).await;
    }

    async fn take_place(&mut self, slot: usize, request: RegisterRequest, ttl: u64, has_grace: bool) {
        let from = wall();
        let answer = match self.client.register(request.clone()).await {
            Ok(answer) => answer,
            // The earlier boot is silent, and cannot be taken over yet.
            Err(status) if status.code() == Code::AlreadyExists && self.slots[slot].silent => return,
            Err(status) => panic!("{status}"),
        };
        let renewal = Span { from, to: wall() };
        self.end(slot, Stop::Deregistered);
        let mut heartbeats = None;
        if has_grace {
            heartbeats = Some(HeartbeatStream::open(&self.client).await);
        }
        let lifetime = InstanceLifetime {
            service: request.service.clone(),
            id: request.id.clone(),
            ttl,
            grace: has_grace.then_some(GRACE),
            revision: answer.revision,
            renewals: vec![renewal],
            broke: None,
            stop: Stop::Silent,
        };
        self.slots[slot].held = Some(Held { lifetime, lease: answer.lease_id, request, heartbeats, carried: false });
        self.read_back(slot, answer.revision, true).await;
    }

    /// Registers the same boot again, with the same or another description.
    async fn register_again(&mut self, slot: usize) {
        let mut request = self.held(slot).request.clone();
        if !self.random.one_in(3) {
            self.describe(&mut request);
        }
        let from = wall();
        let answer = self.client.register(request.clone()).await.unwrap();
        if answer.lease_id == self.held(slot).lease {
            let held = self.held(slot);
            held.lifetime.renewals.push(Span { from, to: wall() });
            held.request = request;
            self.read_back(slot, answer.revision, true).await;
            return;
        }
        // The lease expired while this test was stalled: the new registration expires as well.
        let lifetime = InstanceLifetime {
            revision: answer.revision,
            renewals: vec![Span { from, to: wall() }],
            ..self.held(slot).lifetime.clone()
        };
        self.end(slot, Stop::Silent);
        self.report.lifetimes.push(lifetime);
    }

    async fn update(&mut self, slot: usize) {
        let mut tags = RegisterRequest::default();
        self.describe(&mut tags);
        let request = UpdateInstanceRequest { weight: tags.weight.unwrap(), tags: tags.tags, ..self.target(slot) };
        self.send_update(slot, &["weight", "tags"], request).await;
    }

    async fn drain(&mut self, slot: usize) {
        let request = UpdateInstanceRequest { draining: self.random.one_in(2), ..self.target(slot) };
        self.send_update(slot, &["draining", "starting"], request).await;
    }

    /// Returns an update as an operator or as the instance.
    fn target(&mut self, slot: usize) -> UpdateInstanceRequest {
        let operator = self.random.one_in(2);
        let Slot { service, id, held, .. } = &self.slots[slot];
        let lease_id = held.as_ref().filter(|_| !operator).map(|held| held.lease.clone()).unwrap_or_default();
        UpdateInstanceRequest {
            service: (*service).to_owned(),
            id: id.clone(),
            lease_id,
            ..UpdateInstanceRequest::default()
        }
    }

    async fn send_update(&mut self, slot: usize, paths: &[&str], request: UpdateInstanceRequest) {
        match self.client.update(paths, request).await {
            Ok(instance) => {
                let revision = instance.revision;
                self.report.seen.push(instance);
                self.read_back(slot, revision, true).await;
            }
            Err(status) => self.end_as_expired(slot, &status),
        }
    }

    async fn deregister(&mut self, slot: usize) {
        let operator = self.random.one_in(3);
        let lease = if operator { Bytes::new() } else { self.held(slot).lease.clone() };
        let Slot { service, id, .. } = &self.slots[slot];
        match self.client.deregister(service, id, &lease).await {
            Ok(Some(revision)) => {
                self.end(slot, Stop::Deregistered);
                self.read_back(slot, revision, false).await;
            }
            Ok(None) => self.end(slot, Stop::Silent),
            Err(status) => self.end_as_expired(slot, &status),
        }
    }

    /// Registers another boot without `replace` while the holder is alive, and expects a rejection.
    async fn register_other_boot(&mut self, slot: usize) {
        let request = RegisterRequest { boot_id: "intruder".to_owned(), ..self.held(slot).request.clone() };
        let request = RegisterRequest { replace: false, ..request };
        let ttl = self.held(slot).lifetime.ttl;
        let before = self.held(slot).lifetime.renewals.last().unwrap().from;
        match self.client.register(request).await {
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status}"),
            // A heartbeat was missing, because this test was stalled.
            Ok(_) if wall() > before + ttl / 2 => self.end(slot, Stop::Deregistered),
            Ok(_) => panic!("{}: another boot took over from one that is alive", self.slots[slot].id),
        }
    }

    /// Ends the heartbeats of an instance, and breaks its own stream if it has one.
    fn stop_heartbeats(&mut self, slot: usize) {
        self.slots[slot].silent = true;
        let held = self.held(slot);
        if let Some(heartbeats) = held.heartbeats.take() {
            let from = wall();
            drop(heartbeats);
            held.lifetime.broke = held.carried.then(|| Span { from, to: wall() });
        }
    }

    /// Checks whether a silent instance is gone, or registers another boot without `replace`.
    async fn check_silent(&mut self, slot: usize, choice: u64) {
        if choice == 0 {
            return self.register(slot, false).await;
        }
        let overdue = self.held(slot).lifetime.overdue();
        let Slot { service, id, .. } = &self.slots[slot];
        if wall() > overdue && self.client.get(service, id).await.is_none() {
            self.end(slot, Stop::Silent);
        }
    }

    fn end_as_expired(&mut self, slot: usize, status: &Status) {
        assert!(matches!(status.code(), Code::NotFound | Code::Aborted), "{status}");
        self.end(slot, Stop::Silent);
    }

    fn end(&mut self, slot: usize, stop: Stop) {
        self.slots[slot].silent = false;
        self.report
            .lifetimes
            .extend(self.slots[slot].held.take().map(|held| InstanceLifetime { stop, ..held.lifetime }));
    }

    fn held(&mut self, slot: usize) -> &mut Held {
        self.slots[slot].held.as_mut().expect("it is registered")
    }

    fn describe(&mut self, request: &mut RegisterRequest) {
        request.weight = Some(u32::try_from(1 + self.random.below(3)).unwrap());
        let tags = ["v1", "v2", "canary"].iter().filter(|_| self.random.one_in(2));
        request.tags = tags.map(ToString::to_string).collect();
    }

    /// Reads a written instance with one of three calls.
    async fn read_back(&mut self, slot: usize, wrote: u64, present: bool) {
        let Slot { service, id, .. } = &self.slots[slot];
        let (by, found) = match self.random.below(8) {
            0 => {
                let mut fresh = Reader::open(&self.client, "fresh", Scope::names(&[service]), Filter::NONE).await;
                fresh.until("synced", |view| view.revision > 0).await;
                ("Watch", fresh.view.get(service, id).cloned())
            }
            1 => ("ListInstances", self.client.list(service).await.into_iter().find(|instance| instance.id == *id)),
            _ => ("GetInstance", self.client.get(service, id).await),
        };
        let revision = found.as_ref().map(|instance| instance.revision);
        self.report.reads.push(ReadBack { by, instance: key(service, id), wrote, present, found: revision });
        self.report.seen.extend(found);
    }

    /// Keeps live instances without a stream of their own; the others stop their heartbeats.
    async fn settle(mut self) -> (WriterReport, Vec<Key>) {
        let mut left = Vec::new();
        for slot in 0..self.slots.len() {
            if slot % 3 == 0 {
                let Slot { service, id, .. } = &self.slots[slot];
                left.push(key(service, id));
                let request = RegisterRequest {
                    boot_id: "last".to_owned(),
                    ttl: seconds(3_600.0),
                    replace: true,
                    tags: vec!["v2".to_owned()],
                    weight: Some(2),
                    ..instance(service, id)
                };
                self.take_place(slot, request, 3_600_000, false).await;
            } else if self.slots[slot].held.is_some() {
                self.stop_heartbeats(slot);
            }
        }
        self.report.lifetimes.extend(self.slots.into_iter().filter_map(|slot| slot.held).map(|held| held.lifetime));
        (self.report, left)
    }
}

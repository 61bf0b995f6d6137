//! A writer: some instances of its own, and all that can be done with them.

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

/// Final knowledge of a writer.
#[derive(Debug, Default)]
pub struct Told {
    pub lives: Vec<InstanceLifetime>,
    pub reads: Vec<ReadBack>,
    /// Instances as they came back from calls.
    pub seen: Vec<Instance>,
}

impl Told {
    pub fn extend(&mut self, other: Self) {
        self.lives.extend(other.lives);
        self.reads.extend(other.reads);
        self.seen.extend(other.seen);
    }
}

/// One writer.
#[derive(Debug)]
pub struct Writer {
    peer: TestClient,
    number: u64,
    random: Random,
    beats: HeartbeatStream,
    slots: Vec<Slot>,
    last_beat: u64,
    boots: u64,
    told: Told,
}

/// State of an instance.
#[derive(Debug)]
struct Slot {
    service: &'static str,
    id: String,
    held: Option<Held>,
    /// It has fallen silent, and is to be gone soon.
    dying: bool,
}

/// A registration and what keeps it.
#[derive(Debug)]
struct Held {
    life: InstanceLifetime,
    lease: Bytes,
    request: RegisterRequest,
    /// Stream of its own, for an instance with a disconnect grace.
    beats: Option<HeartbeatStream>,
    /// That stream has carried a heartbeat, and so carries the lease.
    carried: bool,
}

impl Writer {
    pub async fn new(peer: TestClient, number: u64, random: Random) -> Self {
        let beats = HeartbeatStream::open(&peer).await;
        let slot = |(at, service)| Slot { service, id: format!("w{number}-{at}"), held: None, dying: false };
        // Two in each service.
        let slots = SERVICES.iter().chain(&SERVICES).copied().enumerate().map(slot).collect();
        Self { peer, number, random, beats, slots, last_beat: 0, boots: 0, told: Told::default() }
    }

    /// Writes for twice this time, then leaves some instances that stay.
    pub async fn write(mut self, half: Duration) -> (Told, Vec<Key>) {
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

    /// The heartbeats that are due.
    async fn beat(&mut self) {
        if wall() < self.last_beat + BEAT {
            return;
        }
        self.last_beat = wall();
        let shared = self.slots.iter().filter(|slot| !slot.dying).filter_map(|slot| slot.held.as_ref());
        let leases: Vec<Bytes> = shared.filter(|held| held.beats.is_none()).map(|held| held.lease.clone()).collect();
        let (states, span) = self.beats.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
        for (lease, state) in leases.iter().zip(states) {
            self.renewed(lease, state, span);
        }
        for slot in 0..self.slots.len() {
            let Slot { held: Some(held), dying: false, .. } = &mut self.slots[slot] else { continue };
            let Some(beats) = &mut held.beats else { continue };
            held.carried = true;
            let lease = held.lease.clone();
            let (states, span) = beats.beat(&[&lease]).await.unwrap();
            self.renewed(&lease, states[0], span);
        }
    }

    fn renewed(&mut self, lease: &Bytes, state: LeaseState, span: Span) {
        let holds = |slot: &&mut Slot| slot.held.as_ref().is_some_and(|held| held.lease == *lease);
        let slot = self.slots.iter_mut().find(holds).unwrap();
        match state {
            LeaseState::Held => slot.held.as_mut().unwrap().life.signs.push(span),
            // This test was held up for longer than a time to live.
            LeaseState::Unknown => self.told.lives.extend(slot.held.take().map(|held| held.life)),
            other => panic!("{}: {other:?}", slot.id),
        }
    }

    async fn act(&mut self, slot: usize) {
        let choice = self.random.below(20);
        match (&self.slots[slot].held, self.slots[slot].dying) {
            (None, _) => self.register(slot, false).await,
            (Some(_), true) => self.look_after_dying(slot, choice).await,
            (Some(_), false) => match choice {
                0..=4 => self.update(slot).await,
                5..=8 => self.drain(slot).await,
                9..=11 => self.register_again(slot).await,
                12..=14 => self.deregister(slot).await,
                15 => self.register(slot, true).await,
                16 => self.be_refused(slot).await,
                _ => self.fall_silent(slot),
            },
        }
    }

    /// A new boot: where there is none, or, with `replace`, in the place of one that lives.
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
        let answer = match self.peer.register(request.clone()).await {
            Ok(answer) => answer,
            // The one before is dying, and not dead enough yet.
            Err(status) if status.code() == Code::AlreadyExists && self.slots[slot].dying => return,
            Err(status) => panic!("{status}"),
        };
        let sign = Span { from, to: wall() };
        self.end(slot, Stop::Told);
        let mut beats = None;
        if has_grace {
            beats = Some(HeartbeatStream::open(&self.peer).await);
        }
        let life = InstanceLifetime {
            service: request.service.clone(),
            id: request.id.clone(),
            ttl,
            grace: has_grace.then_some(GRACE),
            revision: answer.revision,
            signs: vec![sign],
            broke: None,
            stop: Stop::Silent,
        };
        self.slots[slot].held = Some(Held { life, lease: answer.lease_id, request, beats, carried: false });
        self.read_back(slot, answer.revision, true).await;
    }

    /// The same boot again, as it was or a little different.
    async fn register_again(&mut self, slot: usize) {
        let mut request = self.held(slot).request.clone();
        if !self.random.one_in(3) {
            self.describe(&mut request);
        }
        let from = wall();
        let answer = self.peer.register(request.clone()).await.unwrap();
        if answer.lease_id == self.held(slot).lease {
            let held = self.held(slot);
            held.life.signs.push(Span { from, to: wall() });
            held.request = request;
            self.read_back(slot, answer.revision, true).await;
            return;
        }
        // It had run out while this test was held up: let the new life run out as well.
        let life = InstanceLifetime {
            revision: answer.revision,
            signs: vec![Span { from, to: wall() }],
            ..self.held(slot).life.clone()
        };
        self.end(slot, Stop::Silent);
        self.told.lives.push(life);
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

    /// Deregisters as an operator or as the instance.
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
        match self.peer.update(paths, request).await {
            Ok(instance) => {
                let revision = instance.revision;
                self.told.seen.push(instance);
                self.read_back(slot, revision, true).await;
            }
            Err(status) => self.ran_out(slot, &status),
        }
    }

    async fn deregister(&mut self, slot: usize) {
        let operator = self.random.one_in(3);
        let lease = if operator { Bytes::new() } else { self.held(slot).lease.clone() };
        let Slot { service, id, .. } = &self.slots[slot];
        match self.peer.deregister(service, id, &lease).await {
            Ok(Some(revision)) => {
                self.end(slot, Stop::Told);
                self.read_back(slot, revision, false).await;
            }
            Ok(None) => self.end(slot, Stop::Silent),
            Err(status) => self.ran_out(slot, &status),
        }
    }

    /// Another boot that does not insist, while its holder lives.
    async fn be_refused(&mut self, slot: usize) {
        let request = RegisterRequest { boot_id: "intruder".to_owned(), ..self.held(slot).request.clone() };
        let request = RegisterRequest { replace: false, ..request };
        let ttl = self.held(slot).life.ttl;
        let before = self.held(slot).life.signs.last().unwrap().from;
        match self.peer.register(request).await {
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status}"),
            // A heartbeat was missing, for this test was held up.
            Ok(_) if wall() > before + ttl / 2 => self.end(slot, Stop::Told),
            Ok(_) => panic!("{}: another boot took over from one that is alive", self.slots[slot].id),
        }
    }

    /// No more heartbeats; where it has a stream of its own, that breaks too.
    fn fall_silent(&mut self, slot: usize) {
        self.slots[slot].dying = true;
        let held = self.held(slot);
        if let Some(beats) = held.beats.take() {
            let from = wall();
            drop(beats);
            held.life.broke = held.carried.then(|| Span { from, to: wall() });
        }
    }

    /// Waits for it to go, or has another boot take its place without insisting.
    async fn look_after_dying(&mut self, slot: usize, choice: u64) {
        if choice == 0 {
            return self.register(slot, false).await;
        }
        let overdue = self.held(slot).life.overdue();
        let Slot { service, id, .. } = &self.slots[slot];
        if wall() > overdue && self.peer.get(service, id).await.is_none() {
            self.end(slot, Stop::Silent);
        }
    }

    fn ran_out(&mut self, slot: usize, status: &Status) {
        assert!(matches!(status.code(), Code::NotFound | Code::Aborted), "{status}");
        self.end(slot, Stop::Silent);
    }

    fn end(&mut self, slot: usize, stop: Stop) {
        self.slots[slot].dying = false;
        self.told.lives.extend(self.slots[slot].held.take().map(|held| InstanceLifetime { stop, ..held.life }));
    }

    fn held(&mut self, slot: usize) -> &mut Held {
        self.slots[slot].held.as_mut().expect("it is registered")
    }

    fn describe(&mut self, request: &mut RegisterRequest) {
        request.weight = Some(u32::try_from(1 + self.random.below(3)).unwrap());
        let tags = ["v1", "v2", "canary"].iter().filter(|_| self.random.one_in(2));
        request.tags = tags.map(ToString::to_string).collect();
    }

    /// Reads what was written, through one of three ways.
    async fn read_back(&mut self, slot: usize, wrote: u64, present: bool) {
        let Slot { service, id, .. } = &self.slots[slot];
        let (by, found) = match self.random.below(8) {
            0 => {
                let mut fresh = Reader::open(&self.peer, "fresh", Scope::names(&[service]), Filter::NONE).await;
                fresh.until("synced", |view| view.revision > 0).await;
                ("Watch", fresh.view.get(service, id).cloned())
            }
            1 => ("ListInstances", self.peer.list(service).await.into_iter().find(|instance| instance.id == *id)),
            _ => ("GetInstance", self.peer.get(service, id).await),
        };
        let revision = found.as_ref().map(|instance| instance.revision);
        self.told.reads.push(ReadBack { by, instance: key(service, id), wrote, present, found: revision });
        self.told.seen.extend(found);
    }

    /// Keeps live instances without a stream of their own; the others fall silent.
    async fn settle(mut self) -> (Told, Vec<Key>) {
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
                self.fall_silent(slot);
            }
        }
        self.told.lives.extend(self.slots.into_iter().filter_map(|slot| slot.held).map(|held| held.life));
        (self.told, left)
    }
}

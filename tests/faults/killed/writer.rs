//! A client that writes to instances of its own, one write at a time, and remembers each.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use callboard::pb::callboard::v1::{LeaseState, RegisterRequest, UpdateInstanceRequest};
use tokio::sync::{Barrier, watch};
use tonic::{Code, Status};

use super::{Audit, Phase};
use crate::{
    harness::{HeartbeatStream, Key, Random, TestClient, key, seconds, wall},
    invariant::kept::{self, Asked, Write},
};

/// Instances of a writer.
const SLOTS: u64 = 6;
const SERVICES: [&str; 3] = ["pay-card", "pay-cash", "web"];
/// TTL in seconds, longer than any test: only writers remove these instances.
const TTL: f64 = 3_600.0;

/// Client that writes.
#[derive(Debug)]
pub struct Writer {
    client: TestClient,
    number: u64,
    random: Random,
    slots: Vec<Slot>,
    marks: u64,
    pub done: Vec<Done>,
    /// Acknowledged writes that were lost, as process number and revision.
    pub lost: Vec<(usize, u64)>,
    pub counts: WriterCounts,
}

/// Write that was done, as the audit after a restart shows.
#[derive(Debug)]
pub struct Done {
    pub instance: Key,
    pub write: Write,
    /// Number of the process.
    pub incarnation: usize,
    /// Revision of the write. Unknown for a removal without an answer.
    pub revision: Option<u64>,
}

/// Numbers of writes by their outcome.
#[derive(Debug, Default)]
pub struct WriterCounts {
    pub acknowledged: u64,
    /// Not acknowledged, and done.
    pub done: u64,
    /// Not acknowledged, and not done.
    pub undone: u64,
    /// Acknowledged, and lost.
    pub lost: u64,
    pub heartbeats: u64,
}

impl WriterCounts {
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.done += other.done;
        self.undone += other.undone;
        self.lost += other.lost;
        self.heartbeats += other.heartbeats;
    }
}

impl fmt::Display for WriterCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, done, undone, lost, heartbeats, .. } = self;
        write!(
            out,
            "{acknowledged} writes acknowledged, {lost} of them lost, {} not acknowledged, {done} of them done, \
             {heartbeats} leases held after a restart",
            done + undone
        )
    }
}

/// Instance that may be registered.
#[derive(Debug)]
struct Slot {
    instance: Key,
    /// The first is what was there when the registry started.
    tried: Vec<Try>,
}

#[derive(Debug, Clone)]
struct Try {
    asked: Asked,
    boot: String,
    /// Lease of the response; empty without a response.
    lease: Bytes,
}

impl Writer {
    pub fn new(client: TestClient, number: u64, random: Random) -> Self {
        let slot = |at: u64| {
            let service = SERVICES[usize::try_from(at).unwrap() % SERVICES.len()];
            let nothing = Asked { write: Write::Remove, acknowledged: Some((0, 0)) };
            let tried = vec![Try { asked: nothing, boot: String::new(), lease: Bytes::new() }];
            Slot { instance: key(service, &format!("w{number}-{at}")), tried }
        };
        let slots = (0..SLOTS).map(slot).collect();
        Self {
            client,
            number,
            random,
            slots,
            marks: 0,
            done: Vec::new(),
            lost: Vec::new(),
            counts: WriterCounts::default(),
        }
    }

    /// Writes to one process of the registry after the other.
    pub async fn write(mut self, mut phase: watch::Receiver<Phase>, noticed: Arc<Barrier>) -> Self {
        loop {
            let now = phase.borrow_and_update().clone();
            match now {
                Phase::Over(found) => {
                    self.see(&found);
                    return self;
                }
                Phase::Write(found) => self.see(&found),
            }
            let gone = self.live().await;
            let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
            assert!(codes.contains(&gone.code()), "a running registry rejected a write: {gone}");
            noticed.wait().await;
            phase.changed().await.unwrap();
        }
    }

    /// Compares an audit with the requested writes, and continues from the audited state.
    fn see(&mut self, found: &Audit) {
        for slot in &mut self.slots {
            let there = found.view.set.get(&slot.instance);
            let asked: Vec<Asked> = slot.tried.iter().map(|tried| tried.asked.clone()).collect();
            let last = kept::check(&slot.instance, &asked, there, found.sure).unwrap();
            for (at, asked) in asked.into_iter().enumerate().skip(1) {
                let acknowledged = asked.acknowledged.map(|(_, revision)| revision);
                match (at <= last, acknowledged) {
                    (_, Some(_)) => self.counts.acknowledged += 1,
                    (true, None) => self.counts.done += 1,
                    (false, None) => self.counts.undone += 1,
                }
                let incarnation = found.incarnation.saturating_sub(1);
                if at > last {
                    self.counts.lost += u64::from(acknowledged.is_some());
                    self.lost.extend(acknowledged.map(|revision| (incarnation, revision)));
                    continue;
                }
                let shown = there.filter(|_| at == last).map(|instance| instance.revision);
                let instance = slot.instance.clone();
                self.done.push(Done { instance, write: asked.write, incarnation, revision: acknowledged.or(shown) });
            }
            let mut last = slot.tried.swap_remove(last);
            // From now on the write is known to be applied.
            last.asked.acknowledged = Some((0, there.map_or(0, |there| there.revision)));
            slot.tried = vec![last];
        }
    }

    /// Writes until the registry is gone; returns the error of the last request.
    async fn live(&mut self) -> Status {
        if let Err(gone) = self.beat().await {
            return gone;
        }
        loop {
            let slot = usize::try_from(self.random.below(SLOTS)).unwrap();
            if let Err(gone) = self.act(slot).await {
                return gone;
            }
        }
    }

    /// Leases outlive the registry.
    async fn beat(&mut self) -> Result<(), Status> {
        let last = self.slots.iter().map(Slot::last);
        let held = last.filter(|last| last.asked.write != Write::Remove && !last.lease.is_empty());
        let leases: Vec<Bytes> = held.map(|last| last.lease.clone()).collect();
        if leases.is_empty() {
            return Ok(());
        }
        let mut heartbeat_stream = HeartbeatStream::try_open(&self.client).await?;
        let (states, _) = heartbeat_stream.beat(&leases.iter().collect::<Vec<_>>()).await?;
        assert!(states.iter().all(|state| *state == LeaseState::Held), "writer {}: {states:?}", self.number);
        self.counts.heartbeats += states.len() as u64;
        Ok(())
    }

    async fn act(&mut self, slot: usize) -> Result<(), Status> {
        let is_there = self.slots[slot].last().asked.write != Write::Remove;
        match self.random.below(10) {
            0..=1 if is_there => self.deregister(slot).await,
            2..=4 if is_there => self.update(slot).await,
            5..=6 if is_there => self.register(slot, self.slots[slot].last().boot.clone()).await,
            _ => {
                let boot = format!("boot-{}-{}", self.number, self.marks);
                self.register(slot, boot).await
            }
        }
    }

    async fn register(&mut self, slot: usize, boot: String) -> Result<(), Status> {
        let (instance, mark) = (self.slots[slot].instance.clone(), self.mark());
        let request = RegisterRequest {
            boot_id: boot.clone(),
            replace: true,
            ttl: seconds(TTL),
            tags: vec![mark.clone()],
            weight: Some(self.weight()),
            ..crate::harness::instance(&instance.0, &instance.1)
        };
        // The lease stays the boot's.
        let before = self.slots[slot].last();
        let lease = if before.boot == boot { before.lease.clone() } else { Bytes::new() };
        self.slots[slot].attempt(Write::Put(mark), boot, lease);
        let answer = self.client.register(request).await?;
        self.slots[slot].acknowledge(answer.revision);
        self.slots[slot].tried.last_mut().unwrap().lease = answer.lease_id;
        Ok(())
    }

    async fn update(&mut self, slot: usize) -> Result<(), Status> {
        let ((service, id), mark) = (self.slots[slot].instance.clone(), self.mark());
        let Try { boot, lease, .. } = self.slots[slot].last().clone();
        let request = UpdateInstanceRequest {
            service,
            id,
            lease_id: if self.random.one_in(2) { lease.clone() } else { Bytes::new() },
            tags: vec![mark.clone()],
            weight: self.weight(),
            ..UpdateInstanceRequest::default()
        };
        self.slots[slot].attempt(Write::Put(mark), boot, lease);
        let answer = self.client.update(&["tags", "weight"], request).await?;
        self.slots[slot].acknowledge(answer.revision);
        Ok(())
    }

    async fn deregister(&mut self, slot: usize) -> Result<(), Status> {
        let (service, id) = self.slots[slot].instance.clone();
        let lease = self.slots[slot].last().lease.clone();
        self.slots[slot].attempt(Write::Remove, String::new(), Bytes::new());
        let revision = self.client.deregister(&service, &id, &lease).await?;
        self.slots[slot].acknowledge(revision.expect("it was there"));
        Ok(())
    }

    /// Returns a weight that some filters select and others do not.
    fn weight(&mut self) -> u32 {
        1 + u32::try_from(self.random.below(3)).unwrap()
    }

    /// Returns a mark that distinguishes this write from all others.
    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{}-{}", self.number, self.marks)
    }
}

impl Slot {
    fn last(&self) -> &Try {
        self.tried.last().expect("the first is always there")
    }

    fn attempt(&mut self, write: Write, boot: String, lease: Bytes) {
        self.tried.push(Try { asked: Asked { write, acknowledged: None }, boot, lease });
    }

    fn acknowledge(&mut self, revision: u64) {
        self.tried.last_mut().unwrap().asked.acknowledged = Some((wall(), revision));
    }
}

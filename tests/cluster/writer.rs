//! Client that registers and deregisters its own instances, and knows the expected state of each of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use callboard::pb::callboard::v1::{Instance, RegisterRequest};
use tokio::time::sleep;
use tonic::Status;

use super::{
    heartbeat_client::{REGISTRATION_PATIENCE, or_late},
    test_cluster::ReplicaAddresses,
    work::{WRITTEN, Work},
};
use crate::{
    harness::{Key, Random, TestClient, Wall, instance, key, seconds, wall},
    invariant::kept::{self, Asked, NotKept, Write},
};

/// Instances of a writer.
const INSTANCES: u64 = 4;
/// Range of the pause between two writes, in milliseconds.
const PAUSE_MS: (u64, u64) = (30, 250);

/// Client that writes to its own instances, one write after the other, at random replicas.
#[derive(Debug)]
pub struct Writer {
    replicas: ReplicaAddresses,
    random: Random,
    instances: BTreeMap<Key, WrittenInstance>,
    marks: u64,
    /// Writes that were acknowledged, and those whose outcome is unknown.
    pub acknowledged: u64,
    pub unknown: u64,
    /// Deregistrations with the lease of an earlier registration that were answered.
    pub stale_deletes: u64,
    /// Instances that such a deregistration removed.
    removed_with_earlier_lease: Vec<Key>,
}

/// Writes to one instance.
#[derive(Debug)]
struct WrittenInstance {
    /// Writes from the last acknowledged one on.
    asked: Vec<Asked>,
    /// Lease of the present registration, if it is known.
    lease: Option<Bytes>,
    /// Lease of an earlier registration.
    earlier_lease: Option<Bytes>,
}

impl Writer {
    pub fn new(replicas: &ReplicaAddresses, number: u64, random: Random) -> Self {
        let absent = || Asked { write: Write::Remove, acknowledged: Some((0, 0)) };
        let unused = || WrittenInstance { asked: vec![absent()], lease: None, earlier_lease: None };
        let instances = (0..INSTANCES).map(|id| (key(WRITTEN, &format!("w{number}-{id}")), unused())).collect();
        Self {
            replicas: replicas.clone(),
            random,
            instances,
            marks: 0,
            acknowledged: 0,
            unknown: 0,
            stale_deletes: 0,
            removed_with_earlier_lease: Vec::new(),
        }
    }

    /// Writes until work is over.
    pub async fn run(mut self, mut work: Work) -> Self {
        let mut clients: Vec<_> = (0..self.replicas.0.len()).map(|replica| self.replicas.client(replica)).collect();
        while work.may_go_on().await {
            let replica = self.replicas.any(&mut self.random);
            let which = usize::try_from(self.random.below(INSTANCES)).unwrap();
            let instance = self.instances.keys().nth(which).unwrap().clone();
            let with_earlier_lease = self.instances.iter().find(|(_, written)| written.earlier_lease.is_some());
            let with_earlier_lease = with_earlier_lease.map(|(instance, _)| instance.clone());
            let written = match (self.random.below(4), with_earlier_lease) {
                (0, _) => self.remove(&clients[replica], &instance).await,
                (1, Some(instance)) => self.delete_with_earlier_lease(&clients[replica], &instance).await,
                _ => self.put(&clients[replica], &instance).await,
            };
            if written.is_err() {
                // A connection that hangs would fail the next call as well.
                clients[replica] = self.replicas.client(replica);
            }
            sleep(self.random.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
        }
        self
    }

    async fn put(&mut self, client: &TestClient, of: &Key) -> Result<(), Status> {
        self.marks += 1;
        let mark = format!("m{}", self.marks);
        let written = self.written(of);
        // Each registration that follows a removal is another boot, and so has another lease.
        let last = &written.asked.last().unwrap().write;
        let boot_id = if *last == Write::Remove { mark.clone() } else { "same".to_owned() };
        let replace = true;
        let tags = vec![mark.clone()];
        let request = RegisterRequest { boot_id, replace, tags, ttl: seconds(86_000.0), ..instance(&of.0, &of.1) };
        let answer = or_late(REGISTRATION_PATIENCE, client.register(request)).await;
        let revision = answer.as_ref().ok().map(|answer| answer.revision);
        let written = self.written(of);
        // Without an answer, the lease before may still be the present one.
        let lease = answer.as_ref().ok().map(|answer| answer.lease_id.clone());
        let before = std::mem::replace(&mut written.lease, lease);
        if written.lease.is_some() && before.is_some() && before != written.lease {
            written.earlier_lease = before;
        }
        self.wrote(of, Write::Put(mark), revision);
        answer.map(drop)
    }

    async fn remove(&mut self, client: &TestClient, of: &Key) -> Result<(), Status> {
        let answer = or_late(REGISTRATION_PATIENCE, client.deregister(&of.0, &of.1, &Bytes::new())).await;
        // Without a removal there is no revision of it: the instance was absent.
        let revision = answer.as_ref().ok().map(|revision| revision.unwrap_or(0));
        let written = self.written(of);
        let before = written.lease.take();
        if answer.is_ok() && before.is_some() {
            written.earlier_lease = before;
        }
        self.wrote(of, Write::Remove, revision);
        answer.map(drop)
    }

    /// Deregisters with the lease of an earlier registration, which must remove nothing unless etcd has lost the later one.
    async fn delete_with_earlier_lease(&mut self, client: &TestClient, of: &Key) -> Result<(), Status> {
        let Some(lease) = self.written(of).earlier_lease.clone() else { return Ok(()) };
        let removed = or_late(REGISTRATION_PATIENCE, client.deregister(&of.0, &of.1, &lease)).await?;
        self.stale_deletes += 1;
        self.removed_with_earlier_lease.extend(removed.map(|_| of.clone()));
        Ok(())
    }

    fn written(&mut self, of: &Key) -> &mut WrittenInstance {
        self.instances.get_mut(of).expect("it is one of ours")
    }

    /// Records a write, and whether it was acknowledged.
    fn wrote(&mut self, of: &Key, write: Write, revision: Option<u64>) {
        let acknowledged: Option<(Wall, u64)> = revision.map(|revision| (wall(), revision));
        if acknowledged.is_some() {
            self.acknowledged += 1;
        } else {
            self.unknown += 1;
        }
        let written = self.written(of);
        if acknowledged.is_some() {
            written.asked.clear();
        }
        written.asked.push(Asked { write, acknowledged });
    }

    /// Checks that all acknowledged writes are in the registry, and those without an answer as a whole or not at all.
    pub fn check(&self, registered: &BTreeMap<Key, Instance>) -> Result<(), NotKept> {
        let removed = &self.removed_with_earlier_lease;
        assert!(removed.is_empty(), "deregistrations with the lease of an earlier registration removed {removed:?}");
        for (of, written) in &self.instances {
            kept::check(of, &written.asked, registered.get(of), Wall::MAX)?;
        }
        Ok(())
    }
}

//! Constructors for tests: readings of the clocks, names, entries and commands.

use std::{sync::Arc, time::Duration};

use super::{
    ChangeListener, ClockReading, Command, DeregisterGuard, Entry, Event, InstanceDescription, Patch, Register,
};
use crate::model::{
    Address, BootId, Conditions, Instance, InstanceChecks, InstanceId, LeaseId, LeaseTerms, Metadata, Revision,
    ServiceName, Tags, UnixMillis, Weight,
};

/// Listener that ignores all changes.
#[derive(Debug)]
pub struct NoListener;

impl ChangeListener for NoListener {
    fn changed(&self, _: &Event) {}
}

/// Returns a reading of all clocks at this number of milliseconds.
pub fn at(ms: u64) -> ClockReading {
    ClockReading { monotonic_us: ms * 1_000, lease: ms, wall: UnixMillis(1_700_000_000_000 + ms) }
}

pub fn name(service: &str) -> ServiceName {
    ServiceName::parse(service).unwrap()
}

pub fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

pub fn entry(service: &str, instance: &str, weight: u16) -> Arc<Entry> {
    let InstanceDescription { addresses, tags, metadata, locality, .. } = description(&[], 1);
    let instance = Instance {
        service: name(service),
        id: id(instance),
        addresses,
        tags,
        metadata,
        weight: Weight::parse(weight.into()).unwrap(),
        locality,
        checks: InstanceChecks::default(),
        conditions: Conditions::default(),
        consul_registration: None,
        registered_at: UnixMillis(0),
        registered_revision: Revision(1),
        revision: Revision(1),
    };
    Arc::new(Entry::new(instance, None))
}

pub fn description(tags: &[&str], weight: u32) -> InstanceDescription {
    InstanceDescription {
        addresses: Address::parse_all([("10.0.0.1", 80, "")].into_iter()).unwrap(),
        tags: Tags::parse(tags).unwrap(),
        metadata: Metadata::default(),
        weight: Weight::parse(weight).unwrap(),
        locality: None,
    }
}

/// Returns a registration with a TTL of three seconds. `lease`: id of its lease.
pub fn register(service: &str, instance: &str, boot: &str, lease: u128) -> Register {
    Register {
        service: name(service),
        id: id(instance),
        boot: BootId::parse(boot).unwrap(),
        description: description(&[], 1),
        checks: Vec::new(),
        terms: LeaseTerms::grant(Some(Duration::from_secs(3)), None),
        starting: false,
        replace: false,
        lease: LeaseId(lease),
    }
}

pub fn deregister(service: &str, instance: &str, lease: Option<u128>) -> Command {
    let guard =
        lease.map_or(DeregisterGuard::Any, |lease| DeregisterGuard::Holder { lease: Some(LeaseId(lease)), boot: None });
    Command::Deregister { service: name(service), id: id(instance), guard }
}

pub fn update(service: &str, instance: &str, patch: Patch) -> Command {
    Command::Update { service: name(service), id: id(instance), lease: None, patch }
}

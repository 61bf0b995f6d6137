//! Short ways to make what tests need.

use std::{sync::Arc, time::Duration};

use super::{Audience, Command, Description, Entry, Event, Holder, Now, Patch, Register};
use crate::model::{
    Address, BootId, Checks, Instance, InstanceId, LeaseId, Marks, Metadata, Revision, ServiceName, Tags, Terms,
    WallTime, Weight,
};

/// An audience that does not listen.
#[derive(Debug)]
pub struct Nobody;

impl Audience for Nobody {
    fn changed(&self, _: &Event) {}
}

/// All clocks at so many milliseconds.
pub fn at(ms: u64) -> Now {
    Now { monotonic_us: ms * 1_000, lease: ms, wall: WallTime(1_700_000_000_000 + ms) }
}

pub fn name(service: &str) -> ServiceName {
    ServiceName::parse(service).unwrap()
}

pub fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).unwrap()
}

pub fn entry(service: &str, instance: &str, weight: u16) -> Arc<Entry> {
    let Description { addresses, tags, metadata, locality, .. } = description(&[], 1);
    let instance = Instance {
        service: name(service),
        id: id(instance),
        addresses,
        tags,
        metadata,
        weight: Weight::parse(weight.into()).unwrap(),
        locality,
        checks: Checks::default(),
        marks: Marks::default(),
        listing: None,
        registered_at: WallTime(0),
        registered_revision: Revision(1),
        revision: Revision(1),
    };
    Arc::new(Entry { instance, lease: None })
}

pub fn description(tags: &[&str], weight: u32) -> Description {
    Description {
        addresses: Address::parse_all([("10.0.0.1", 80, "")].into_iter()).unwrap(),
        tags: Tags::parse(tags).unwrap(),
        metadata: Metadata::default(),
        weight: Weight::parse(weight).unwrap(),
        locality: None,
    }
}

/// A registration with a time to live of three seconds. `lease` numbers the lease that it would get.
pub fn register(service: &str, instance: &str, boot: &str, lease: u128) -> Register {
    Register {
        service: name(service),
        id: id(instance),
        boot: BootId::parse(boot).unwrap(),
        description: description(&[], 1),
        checks: Vec::new(),
        terms: Terms::grant(Some(Duration::from_secs(3)), None),
        starting: false,
        replace: false,
        lease: LeaseId(lease),
    }
}

pub fn deregister(service: &str, instance: &str, lease: Option<u128>) -> Command {
    let of = lease.map_or(Holder::Anyone, |lease| Holder::This { lease: Some(LeaseId(lease)), boot: None });
    Command::Deregister { service: name(service), id: id(instance), of }
}

pub fn update(service: &str, instance: &str, patch: Patch) -> Command {
    Command::Update { service: name(service), id: id(instance), lease: None, patch }
}

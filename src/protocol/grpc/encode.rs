//! Conversions from the model's types to the contract's messages.

use std::{sync::Arc, time::Duration};

use super::time::{duration, timestamp};
use crate::{
    balancing::{ServiceWeights, WeightFactor},
    engine::Engine,
    model::{
        Caller, CallerProtocol, EffectivePolicy, Instance, LoadBalancing, LoadReport, ServerActor, Status, ZoneMode,
    },
    pb::callboard::v1 as pb,
    registry::{Change, Entry, Event, Lease, LeaseTime, RemovalReason},
};

pub(super) fn instance(instance: &Instance) -> pb::Instance {
    let addresses = instance.addresses.iter().map(|address| pb::Address {
        host: address.host.to_string(),
        port: address.port.into(),
        name: address.name.to_string(),
    });
    pb::Instance {
        service: instance.service.to_string(),
        id: instance.id.to_string(),
        addresses: addresses.collect(),
        tags: instance.tags.iter().map(str::to_owned).collect(),
        metadata: instance.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        weight: instance.effective_weight().get().into(),
        locality: instance.locality.as_ref().map(|locality| pb::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            sub_zone: locality.sub_zone.to_string(),
        }),
        status: status(instance.status()).into(),
        registered_at: Some(timestamp(instance.registered_at)),
        registered_revision: instance.registered_revision.0,
        revision: instance.revision.0,
        checks: instance.checks.iter().map(super::check::encode_state).collect(),
    }
}

pub(super) fn lease(lease: &Lease, now: LeaseTime) -> pb::Lease {
    let terms = lease.terms();
    pb::Lease {
        ttl: duration(terms.ttl()),
        time_left: duration(Duration::from_millis(lease.deadline(now).saturating_sub(now))),
        disconnect_grace: terms.disconnect_grace().and_then(duration),
        connected: lease.is_connected(),
    }
}

pub(super) fn load(load: LoadReport) -> pb::LoadReport {
    pb::LoadReport {
        utilization: load.utilization,
        in_flight: load.in_flight,
        response_time: load.response_time.and_then(duration),
        requests: load.requests,
        errors: load.errors,
    }
}

/// Returns the effective weight of an instance, in the unit of configured weights. `None`: it is the configured one.
pub(super) fn effective_weight(weights: Option<&ServiceWeights>, instance: &Instance) -> Option<f64> {
    let weights = weights.filter(|weights| weights.factor(instance) != WeightFactor::ONE)?;
    Some(f64::from(weights.of(instance)) / 100.0)
}

/// Encodes the part of a policy that clients of this API follow.
pub(super) fn client_policy(policy: &EffectivePolicy) -> pb::ClientPolicy {
    let lb = match policy.lb {
        LoadBalancing::RoundRobin => pb::LoadBalancing::RoundRobin,
        LoadBalancing::LeastRequest => pb::LoadBalancing::LeastRequest,
        LoadBalancing::RingHash => pb::LoadBalancing::RingHash,
        LoadBalancing::Weighted => pb::LoadBalancing::Weighted,
    };
    pb::ClientPolicy {
        lb: lb.into(),
        timeout: if policy.timeout.is_zero() { None } else { duration(policy.timeout) },
        prefer_zone: policy.zone == ZoneMode::Prefer,
        revision: policy.revision.0,
    }
}

/// Returns the age of the state while the engine cannot reach its store.
pub(super) fn staleness(engine: &dyn Engine) -> Option<pb::Staleness> {
    let age = engine.degraded_since().map(|_| engine.state_age())?;
    Some(pb::Staleness { age: duration(age), revision: engine.registry().applied().0 })
}

/// Returns the name of the replica that holds an entry. Empty if it is unknown, or the engine has no replicas.
pub(super) fn holder(engine: &dyn Engine, entry: &Entry) -> String {
    engine.replica_name(entry.holder).map(|name| name.to_string()).unwrap_or_default()
}

pub(super) fn event(event: &Event, engine: &dyn Engine) -> pb::Event {
    let status = |entry: Option<&Arc<Entry>>| {
        entry.map_or(pb::InstanceStatus::Unspecified, |entry| self::status(entry.instance.status())).into()
    };
    let (kind, why) = match &event.change {
        Change::Added(_) => (pb::EventKind::Registered, pb::RemovalReason::Unspecified),
        Change::Changed(old, new) if old.instance.registered_revision != new.instance.registered_revision => {
            (pb::EventKind::TakenOver, pb::RemovalReason::Unspecified)
        }
        Change::Changed(..) => (pb::EventKind::Updated, pb::RemovalReason::Unspecified),
        Change::Removed(_, why) => (pb::EventKind::Removed, reason(*why)),
    };
    pb::Event {
        revision: event.revision.0,
        time: Some(timestamp(event.at.wall)),
        service: event.service().to_string(),
        instance_id: event.id().to_string(),
        kind: kind.into(),
        reason: why.into(),
        status_before: status(event.before()),
        status_after: status(event.after()),
        caller: Some(caller(&event.caller)),
        holder: event.after().or(event.before()).map(|entry| holder(engine, entry)).unwrap_or_default(),
    }
}

/// Encodes the originator of an event.
pub(super) fn caller(caller: &Caller) -> pb::Caller {
    let (kind, peer, identity) = match caller {
        Caller::Client { protocol, peer, identity } => {
            let kind = match protocol {
                CallerProtocol::Grpc => pb::CallerKind::Grpc,
                CallerProtocol::Consul => pb::CallerKind::Consul,
            };
            (kind, peer.to_string(), identity.as_ref().map(ToString::to_string))
        }
        Caller::Server(actor) => {
            let kind = match actor {
                ServerActor::Expiry => pb::CallerKind::Expiry,
                ServerActor::HealthCheck => pb::CallerKind::HealthCheck,
                ServerActor::Recovery => pb::CallerKind::Recovery,
                ServerActor::SelfPreservation => pb::CallerKind::SelfPreservation,
                ServerActor::InProcess => pb::CallerKind::InProcess,
            };
            (kind, String::new(), None)
        }
    };
    pb::Caller { kind: kind.into(), peer, identity: identity.unwrap_or_default() }
}

fn status(status: Status) -> pb::InstanceStatus {
    match status {
        Status::Serving => pb::InstanceStatus::Serving,
        Status::Suspect => pb::InstanceStatus::Suspect,
        Status::Starting => pb::InstanceStatus::Starting,
        Status::Draining => pb::InstanceStatus::Draining,
        Status::Unhealthy => pb::InstanceStatus::Unhealthy,
    }
}

pub(super) fn reason(reason: RemovalReason) -> pb::RemovalReason {
    match reason {
        RemovalReason::Deregistered => pb::RemovalReason::Deregistered,
        RemovalReason::Expired => pb::RemovalReason::Expired,
        RemovalReason::Reaped => pb::RemovalReason::Reaped,
        RemovalReason::Superseded => pb::RemovalReason::Superseded,
    }
}

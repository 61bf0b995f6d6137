//! Instances with all kinds of parts, and values that an earlier version stored.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    engine::record::StoredLease,
    model::{
        Address, BootId, CheckDefinition, CheckDescription, CheckId, CheckStatus, Conditions, HttpProbe, LeaseId,
        LeaseTerms, Locality, Metadata, Probe, ProbeTls, Tags, Weight,
    },
};

/// Instance with a lease and two checks.
pub fn instance() -> StoredInstance {
    let http = HttpProbe {
        headers: [("a", "b"), ("c", "d")].map(|(name, value)| (name.into(), value.into())).into(),
        tls: ProbeTls { server_name: "db".into(), skip_verify: true },
        ..HttpProbe::get("https://10.0.0.1/health")
    };
    let check = |id: &str, probe, description: Option<CheckDescription>| {
        let id = CheckId::parse(id).unwrap();
        let definition = CheckDefinition {
            interval: Duration::from_secs(10),
            description: description.map(Box::new),
            ..CheckDefinition::new(id, "name", probe)
        };
        Check {
            created: Revision(0x1001),
            revision: Revision(0x2003),
            definition_revision: Revision(0x2002),
            ..Check::new(Arc::new(definition.validated().unwrap()), CheckStatus::Warning)
        }
    };
    let description = CheckDescription {
        output: "slow".into(),
        kind: "http".into(),
        interval: "10s".into(),
        timeout: "1s".into(),
        definition: "{}".into(),
    };
    let metadata = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let instance = Instance {
        addresses: [("10.0.0.1", 80, ""), ("::1", 81, "admin")]
            .map(|(host, port, name)| Address::parse(host, port, name).unwrap())
            .into(),
        tags: Tags::parse(&["v1"]).unwrap(),
        metadata: Metadata::parse(metadata.iter()).unwrap(),
        weight: Weight::parse(7).unwrap(),
        locality: Locality::parse("eu", "eu-1", "a").unwrap(),
        checks: InstanceChecks::new(vec![
            check("http", Probe::Http(http), None),
            check("static", Probe::Static, Some(description)),
        ])
        .unwrap(),
        conditions: Conditions { suspect: true, was_healthy: true, ..Conditions::default() },
        registered_at: UnixMillis(1_700_000_000_123),
        registered_revision: Revision(0x1001),
        revision: Revision(0x3001),
        ..test_support::entry("web", "a", 7).instance.clone()
    };
    let terms = LeaseTerms::grant(Some(Duration::from_secs(9)), Some(Duration::ZERO));
    let lease = StoredLease { id: LeaseId(u128::MAX / 7), boot: BootId::parse("boot").unwrap(), terms };
    StoredInstance { instance, lease: Some(lease) }
}

/// Instance with a Consul registration.
pub fn registration() -> StoredInstance {
    let registration = ConsulRegistration {
        node: "n2".into(),
        id: "web1".into(),
        tagged_addresses: [("lan", "10.0.0.1", 1), ("wan", "192.0.2.1", 2)]
            .map(|(name, host, port)| (name.into(), host.into(), port))
            .into(),
        warning_weight: 3,
        maintenance: "why".into(),
        description_revision: Revision(0x1001),
        ..ConsulRegistration::default()
    };
    let instance = Instance {
        id: crate::model::InstanceId::on_node("n2", "web1"),
        consul_registration: Some(Arc::new(registration)),
        registered_revision: Revision(0x1001),
        revision: Revision(0x3001),
        ..test_support::entry("web", "a", 7).instance.clone()
    };
    StoredInstance { instance, lease: None }
}

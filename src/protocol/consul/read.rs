//! What is answered.

mod agent;
mod catalog;
mod health;
mod tags;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::Serialize;

use super::{
    Consul, ConsulEndpoint, ConsulError, ConsulRequest,
    agent::{CONSUL_SERVICE, SERVER_PORT, VERSION},
    blocking::QuerySubject,
    response::{ConsulResponse, encode},
};
use crate::{
    app::{EncodedView, View, ViewKey, ViewVersion},
    model::{Revision, ServiceName},
    registry::Registry,
};

/// Time in microseconds for which an answer with outputs of checks is current: they change without a revision.
const CHECK_OUTPUT_AGE: u64 = 1_000_000;

impl Consul {
    /// Answers a question.
    pub(super) async fn read(
        &self,
        endpoint: ConsulEndpoint,
        call: &ConsulRequest,
    ) -> Result<ConsulResponse, ConsulError> {
        // All that have an index wait for room once they know it.
        if matches!(
            endpoint,
            ConsulEndpoint::AgentServices | ConsulEndpoint::AgentChecks | ConsulEndpoint::AgentHealthByName
        ) {
            call.connection.wait_for_capacity().await?;
        }
        match endpoint {
            ConsulEndpoint::HealthService => Box::pin(self.health_service(call)).await,
            ConsulEndpoint::HealthChecks => Box::pin(self.health_checks(call)).await,
            ConsulEndpoint::HealthState => Box::pin(self.health_state(call)).await,
            ConsulEndpoint::HealthNode => Box::pin(self.health_node(call)).await,
            ConsulEndpoint::CatalogServices => Box::pin(self.catalog_services(call)).await,
            ConsulEndpoint::CatalogService => Box::pin(self.catalog_service(call)).await,
            ConsulEndpoint::CatalogNodes => Box::pin(self.catalog_nodes(call)).await,
            ConsulEndpoint::CatalogNode => Box::pin(self.catalog_node(call, true)).await,
            ConsulEndpoint::CatalogNodeServices => Box::pin(self.catalog_node(call, false)).await,
            ConsulEndpoint::AgentServices => self.agent_services(call),
            ConsulEndpoint::AgentService => Box::pin(self.agent_service(call)).await,
            ConsulEndpoint::AgentChecks => self.agent_checks(call),
            ConsulEndpoint::AgentHealthByName => self.agent_health_by_name(call),
            ConsulEndpoint::AgentHealthById => self.agent_health_by_id(call),
            ConsulEndpoint::AgentSelf => Self::plain(call, &self.agent_self()),
            ConsulEndpoint::AgentMembers => Self::plain(call, &[self.agent_member()]),
            ConsulEndpoint::AgentVersion => {
                let version = serde_json::json!({"SHA": "", "BuildDate": "1970-01-01T00:00:01Z", "HumanVersion": VERSION, "FIPS": ""});
                Self::plain(call, &version)
            }
            ConsulEndpoint::CatalogDatacenters => Self::plain(call, &[&self.agent.datacenter]),
            ConsulEndpoint::StatusLeader => Self::plain(call, &self.leader()),
            ConsulEndpoint::StatusPeers => Self::plain(call, &[self.leader()]),
            ConsulEndpoint::ConnectRoots => Box::pin(self.roots(call)).await,
            // These are written to, which was seen before.
            ConsulEndpoint::AgentMaintenance
            | ConsulEndpoint::ServiceRegister
            | ConsulEndpoint::ServiceDeregister
            | ConsulEndpoint::ServiceMaintenance
            | ConsulEndpoint::CheckRegister
            | ConsulEndpoint::CheckDeregister
            | ConsulEndpoint::CheckPass
            | ConsulEndpoint::CheckWarn
            | ConsulEndpoint::CheckFail
            | ConsulEndpoint::CheckUpdate
            | ConsulEndpoint::CatalogRegister
            | ConsulEndpoint::CatalogDeregister => Err(ConsulError::NoSuchPath),
        }
    }

    fn plain(call: &ConsulRequest, value: &impl Serialize) -> Result<ConsulResponse, ConsulError> {
        Ok(ConsulResponse::json(encode(value, call.query.pretty)?))
    }

    pub(super) fn registry(&self) -> &Registry {
        self.shared.engine.registry()
    }

    /// The address of whoever would be asked about the catalog: this process.
    fn leader(&self) -> String {
        std::net::SocketAddr::new(self.agent.address, SERVER_PORT).to_string()
    }

    /// Index of a service in all its spellings: the revision of the last change of their instances, or of a node that these are on; or,
    /// if it has no instances, of the last service that lost them. A spelling that lost its last instance is a change of the others.
    fn index_of(&self, name: &str, spellings: &[ServiceName]) -> u64 {
        let registry = self.registry();
        let lost = registry.last_spelling_removed(name);
        let shown = spellings.iter().filter_map(|spelling| registry.view_revision(spelling)).max();
        let shown = shown.map(|revision| revision.max(lost));
        self.at_least(if name == CONSUL_SERVICE {
            self.revision_of_itself(shown)
        } else {
            shown.unwrap_or_else(|| registry.consul_index().last_emptied())
        })
    }

    /// Revision of the service that stands for the registry, which is there and on the local node without being registered. Others
    /// may be registered under its name: only who may have been shown those is told when they are gone.
    fn revision_of_itself(&self, others: Option<Revision>) -> Revision {
        let registry = self.registry();
        let node = registry.node("").map(|node| node.instance.revision).unwrap_or_default();
        let were_shown = self.shown_beside_itself.fetch_or(others.is_some(), Ordering::AcqRel);
        let emptied = || if were_shown { registry.consul_index().last_emptied() } else { Revision::default() };
        others.unwrap_or_else(emptied).max(node)
    }

    /// An index that is no lower than what is known since the start.
    fn at_least(&self, revision: Revision) -> u64 {
        revision.max(self.registry().start_revision()).0.max(1)
    }

    /// Waits, and answers with bytes that are kept as long as neither the service nor a node that it is on changes. `make` takes all
    /// spellings of the name.
    async fn of_service(
        &self,
        call: &ConsulRequest,
        view: View,
        make: impl Fn(&[ServiceName]) -> Result<(Bytes, bool), ConsulError>,
    ) -> Result<ConsulResponse, ConsulError> {
        let folded = call.subject.to_ascii_lowercase();
        let spellings = || self.registry().spellings_of(&folded);
        // A name that no service can have is that of a service that is not there.
        let subject = ServiceName::parse(&folded).map_or(QuerySubject::Nothing, QuerySubject::Service);
        let index = self.wait(call, &subject, || self.index_of(&folded, &spellings())).await?;
        let query = call.query.question();
        let key = ViewKey::new(view, &folded, &query);
        // Read again: what is kept must not be older than what it says it is.
        let found = spellings();
        let revision = Revision(self.index_of(&folded, &found));
        let reply = ConsulResponse::from(self.encoded(call, key, revision, || make(&found))?);
        // Consul streams the health of services to its agents, and nothing else of the catalog.
        let streaming = view == View::ConsulHealthService && (call.query.index > 0 || call.query.cached);
        let reply = reply.with_index(&call.query, index, streaming);
        // Nor does it cache the checks of services.
        Ok(if view == View::ConsulHealthChecks { reply } else { self.tell_of_cache(call, &key, reply) })
    }

    /// Returns an encoded view as of a revision. `make` returns the bytes, and whether they contain outputs of checks.
    fn encoded(
        &self,
        call: &ConsulRequest,
        key: ViewKey<'_>,
        revision: Revision,
        make: impl FnOnce() -> Result<(Bytes, bool), ConsulError>,
    ) -> Result<EncodedView, ConsulError> {
        let now = self.shared.clock.now().monotonic_us;
        let make = || {
            let (bytes, has_outputs) = make()?;
            let expires_at = has_outputs.then_some(now + CHECK_OUTPUT_AGE);
            Ok((bytes, ViewVersion { expires_at, ..ViewVersion::at(revision) }))
        };
        self.shared.views.encoded(key, call.query.gzip, |version| version.is_at(revision, now), make)
    }

    /// Tells whether Consul would answer from a cache, where `?cached` lets it.
    fn tell_of_cache(&self, call: &ConsulRequest, key: &ViewKey<'_>, reply: ConsulResponse) -> ConsulResponse {
        if call.query.cached { reply.with_cache(self.cached.ask(key)) } else { reply }
    }

    /// What some client's tests wait for: a root of nothing.
    async fn roots(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let roots = serde_json::json!({
            "ActiveRootID": self.agent.id,
            "TrustDomain": format!("{}.consul", self.agent.id),
            "Roots": [{
                "ID": self.agent.id,
                "Name": "Callboard has no service mesh",
                "SerialNumber": 0,
                "SigningKeyID": "",
                "ExternalTrustDomain": self.agent.id,
                "RootCert": "",
                "IntermediateCerts": null,
                "Active": true,
                "PrivateKeyType": "",
                "PrivateKeyBits": 0,
                "CreateIndex": 1,
                "ModifyIndex": 1,
            }],
        });
        let index = self.wait(call, &QuerySubject::Nothing, || self.at_least(Revision::default())).await?;
        Ok(Self::plain(call, &roots)?.with_index(&call.query, index, false))
    }

    /// What an agent tells of itself. Clients look at the names and the version.
    fn agent_self(&self) -> serde_json::Value {
        let agent = &self.agent;
        serde_json::json!({
            "Config": {
                "Datacenter": agent.datacenter,
                "PrimaryDatacenter": agent.datacenter,
                "NodeName": agent.node,
                "NodeID": agent.id,
                "Revision": "",
                "Server": true,
                "Version": VERSION,
                "BuildDate": "1970-01-01T00:00:01Z",
            },
            "Coord": {"Adjustment": 0, "Error": 1.5, "Height": 0.00001, "Vec": [0, 0, 0, 0, 0, 0, 0, 0]},
            "DebugConfig": {"Datacenter": agent.datacenter, "NodeName": agent.node, "Server": true, "Version": VERSION},
            "Member": self.agent_member(),
            "Meta": {"consul-network-segment": "", "consul-version": VERSION},
            "Stats": {"agent": {"check_monitors": "0", "check_ttls": "0", "checks": self.checks.count().to_string(),
                "services": self.registry().service_count().to_string()},
                "build": {"callboard": env!("CARGO_PKG_VERSION"), "version": VERSION}},
            "xDS": {},
        })
    }

    fn agent_member(&self) -> serde_json::Value {
        let agent = &self.agent;
        serde_json::json!({
            "Name": agent.node,
            "Addr": agent.address,
            "Port": 8301,
            "Tags": {"role": "consul", "dc": agent.datacenter, "id": agent.id, "build": format!("{VERSION}:")},
            "Status": 1,
            "ProtocolMin": 1,
            "ProtocolMax": 5,
            "ProtocolCur": 2,
            "DelegateMin": 2,
            "DelegateMax": 5,
            "DelegateCur": 4,
        })
    }
}

//! Answers about services, nodes, checks and the agent.

mod agent;
mod catalog;
mod health;
mod tags;

use std::{net::SocketAddr, sync::atomic::Ordering};

use bytes::Bytes;
use serde::Serialize;

use super::{
    Consul, ConsulError, ConsulRequest,
    agent::{CONSUL_SERVICE, SERVER_PORT, VERSION},
    blocking::QuerySubject,
    response::{ConsulResponse, encode},
    route::ReadEndpoint,
};
use crate::{
    app::{EncodedView, View, ViewKey, ViewVersion},
    model::{Revision, ServiceName},
    registry::Registry,
};

/// Maximum age of an answer with outputs of checks, in microseconds: outputs change without a revision.
const MAX_CHECK_OUTPUT_AGE: u64 = 1_000_000;

impl Consul {
    /// Answers a read.
    pub(super) async fn read(
        &self,
        endpoint: ReadEndpoint,
        request: &ConsulRequest,
    ) -> Result<ConsulResponse, ConsulError> {
        // Endpoints with an index wait for memory after they have waited for a change.
        if matches!(endpoint, ReadEndpoint::AgentServices | ReadEndpoint::AgentChecks | ReadEndpoint::AgentHealthByName)
        {
            request.connection.wait_for_capacity().await?;
        }
        match endpoint {
            ReadEndpoint::HealthService => Box::pin(self.health_service(request)).await,
            ReadEndpoint::HealthChecks => Box::pin(self.health_checks(request)).await,
            ReadEndpoint::HealthState => Box::pin(self.health_state(request)).await,
            ReadEndpoint::HealthNode => Box::pin(self.health_node(request)).await,
            ReadEndpoint::CatalogServices => Box::pin(self.catalog_services(request)).await,
            ReadEndpoint::CatalogService => Box::pin(self.catalog_service(request)).await,
            ReadEndpoint::CatalogNodes => Box::pin(self.catalog_nodes(request)).await,
            ReadEndpoint::CatalogNode => Box::pin(self.catalog_node(request, true)).await,
            ReadEndpoint::CatalogNodeServices => Box::pin(self.catalog_node(request, false)).await,
            ReadEndpoint::AgentServices => self.agent_services(request),
            ReadEndpoint::AgentService => Box::pin(self.agent_service(request)).await,
            ReadEndpoint::AgentChecks => self.agent_checks(request),
            ReadEndpoint::AgentHealthByName => self.agent_health_by_name(request),
            ReadEndpoint::AgentHealthById => self.agent_health_by_id(request),
            ReadEndpoint::AgentSelf => Self::plain(request, &self.agent_self()),
            ReadEndpoint::AgentMembers => Self::plain(request, &[self.agent_member()]),
            ReadEndpoint::AgentVersion => {
                let version = serde_json::json!({"SHA": "", "BuildDate": "1970-01-01T00:00:01Z", "HumanVersion": VERSION, "FIPS": ""});
                Self::plain(request, &version)
            }
            ReadEndpoint::CatalogDatacenters => Self::plain(request, &[&self.agent.datacenter]),
            ReadEndpoint::StatusLeader => Self::plain(request, &self.leader()),
            ReadEndpoint::StatusPeers => Self::plain(request, &[self.leader()]),
            ReadEndpoint::ConnectRoots => Box::pin(self.roots(request)).await,
        }
    }

    fn plain(request: &ConsulRequest, value: &impl Serialize) -> Result<ConsulResponse, ConsulError> {
        Ok(ConsulResponse::json(encode(value, request.query.pretty)?))
    }

    pub(super) fn registry(&self) -> &Registry {
        self.context.engine.registry()
    }

    /// Returns the address of the leading server: that of this process.
    fn leader(&self) -> String {
        SocketAddr::new(self.agent.address, SERVER_PORT).to_string()
    }

    /// Returns the index of a service in all spellings of its name: the revision at which an instance or its node last changed, or at which
    /// a spelling lost its last instance. A service without instances has the index of the last service that lost its last one.
    fn index_of(&self, name: &str, spellings: &[ServiceName]) -> u64 {
        let registry = self.registry();
        let lost = registry.last_spelling_removed(name);
        let shown = spellings.iter().filter_map(|spelling| registry.view_revision(spelling)).max();
        let shown = shown.map(|revision| revision.max(lost));
        self.at_least(if name == CONSUL_SERVICE {
            self.consul_service_revision(shown)
        } else {
            shown.unwrap_or_else(|| registry.consul_index().last_emptied())
        })
    }

    /// Returns the revision of the service `consul`. Its own instance changes with the local node only. Other instances may be registered
    /// under the name: once they have been shown, their removal has to wake queries.
    fn consul_service_revision(&self, others: Option<Revision>) -> Revision {
        let registry = self.registry();
        let node = registry.node("").map(|node| node.instance.revision).unwrap_or_default();
        let were_shown = self.showed_other_consul_instances.fetch_or(others.is_some(), Ordering::AcqRel)
            // Another replica may have shown them.
            || registry.has_replicas();
        let emptied = || if were_shown { registry.consul_index().last_emptied() } else { Revision::default() };
        others.unwrap_or_else(emptied).max(node)
    }

    /// Returns the index of a revision. It is never 0 and never that of an earlier incarnation, and all replicas show the same.
    fn at_least(&self, revision: Revision) -> u64 {
        revision.max(self.registry().index_floor()).0.max(1)
    }

    /// Waits, and answers with a view that is current until the service, or the node of one of its instances, changes. `make` takes all
    /// spellings of the name.
    async fn service_response(
        &self,
        request: &ConsulRequest,
        view: View,
        make: impl Fn(&[ServiceName]) -> Result<(Bytes, bool), ConsulError>,
    ) -> Result<ConsulResponse, ConsulError> {
        let folded = request.subject.to_ascii_lowercase();
        let spellings = || self.registry().spellings_of(&folded);
        // An invalid name is that of a service without instances.
        let subject = ServiceName::parse(&folded).map_or(QuerySubject::Nothing, QuerySubject::Service);
        let index = self.wait_for_change(request, &subject, || self.index_of(&folded, &spellings())).await?;
        let query = request.query.cache_key();
        let key = ViewKey::new(view, &folded, &query);
        // Read again, before the instances: the view must not be older than its revision.
        let found = spellings();
        let revision = Revision(self.index_of(&folded, &found));
        let response = ConsulResponse::from(self.encoded(request, key, revision, || make(&found))?);
        // Consul streams only the health of services to its agents, and no other part of the catalog.
        let streaming = view == View::ConsulHealthService && (request.query.index > 0 || request.query.cached);
        let response = response.with_index(&request.query, index, streaming);
        // Consul's agents do not cache the checks of services.
        let is_cached = request.query.cached && view != View::ConsulHealthChecks;
        Ok(if is_cached { response.with_cache(self.cached.ask(&key)) } else { response })
    }

    /// Returns an encoded view as of a revision. `make` returns the bytes, and whether they contain outputs of checks.
    fn encoded(
        &self,
        request: &ConsulRequest,
        key: ViewKey<'_>,
        revision: Revision,
        make: impl FnOnce() -> Result<(Bytes, bool), ConsulError>,
    ) -> Result<EncodedView, ConsulError> {
        let now = self.context.clock.now().monotonic_us;
        let make = || {
            let (bytes, has_outputs) = make()?;
            let expires_at = has_outputs.then_some(now + MAX_CHECK_OUTPUT_AGE);
            Ok((bytes, ViewVersion { expires_at, ..ViewVersion::at(revision) }))
        };
        self.context.views.encoded(key, request.query.gzip, |version| version.is_at(revision, now), make)
    }

    /// Returns a list with one root certificate that signs nothing. The tests of some client libraries wait for such a
    /// list.
    async fn roots(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
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
        let index =
            self.wait_for_change(request, &QuerySubject::Nothing, || self.at_least(Revision::default())).await?;
        Ok(Self::plain(request, &roots)?.with_index(&request.query, index, false))
    }

    /// Returns the description of the agent. Clients use the names and the version.
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
                "build": {"callboard": env!("CARGO_PKG_VERSION"), "version": VERSION},
                "callboard": {"replica": self.context.replica}},
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

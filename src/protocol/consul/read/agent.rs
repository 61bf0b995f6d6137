//! `/v1/agent/…`: services and checks of the local node.

use std::{collections::BTreeMap, hash::Hasher, sync::Arc};

use axum::http::{StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use siphasher::sip::SipHasher13;

use crate::{
    model::{CheckStatus, Status, id_on_node, node_id},
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        blocking::QuerySubject,
        filter::{CHECKS, ConsulFilter, SERVICES},
        response::{ConsulResponse, encode},
        view::{AgentService, BriefCheck, HealthCheck, checks_of, checks_of_node, service_id},
    },
    registry::Entry,
};

/// A service with its health.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceHealth<'a> {
    aggregated_status: &'static str,
    service: Option<AgentService<'a>>,
    checks: Option<Vec<BriefCheck<'a>>>,
}

/// Aggregated status of an instance, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AggregateHealth {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl AggregateHealth {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Passing => StatusCode::OK,
            Self::Warning => StatusCode::TOO_MANY_REQUESTS,
            Self::Critical | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the status of an instance, with that of its node.
    fn of(entry: &Entry) -> Self {
        let instance = &entry.instance;
        match (instance.status(), instance.checks.aggregate_status()) {
            (Status::Draining, _) => Self::Maintenance,
            (Status::Unhealthy | Status::Starting, _) => Self::Critical,
            (_, CheckStatus::Warning) => Self::Warning,
            _ if instance.conditions.node_warning => Self::Warning,
            _ => Self::Passing,
        }
    }
}

impl Consul {
    /// Returns the Consul registrations of the local node, by id.
    pub(in crate::protocol::consul) fn local_instances(&self) -> Vec<Arc<Entry>> {
        let registry = self.registry();
        let mut ids = registry.consul_index().on_node(&node_id(""));
        ids.sort();
        ids.into_iter().filter_map(|(id, service)| registry.get(&service, id.as_str())).collect()
    }

    /// Returns the Consul registration of the local node with this id.
    pub(in crate::protocol::consul) fn local_instance(&self, id: &str) -> Option<Arc<Entry>> {
        let id = id_on_node("", id);
        let service = self.registry().consul_index().service_of(&id)?;
        self.registry().get(&service, &id)
    }

    pub(super) fn agent_services(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let filter = ConsulFilter::parse(request.query.get("filter"), &SERVICES)?;
        let entries = self.local_instances();
        let services =
            entries.iter().map(|entry| (service_id(&entry.instance), AgentService::new(&entry.instance, &self.agent)));
        let services: BTreeMap<_, _> = services.filter(|(_, service)| filter.matches(service)).collect();
        Ok(Self::compressible(request, encode(&services, request.query.pretty)?))
    }

    pub(super) async fn agent_service(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let id = &request.subject;
        let unknown = || ConsulError::NotFound(format!("unknown service ID: {id}"));
        let service = self.local_instance(id).ok_or_else(unknown)?.instance.service.clone();
        self.wait_for_hash_change(request, &QuerySubject::Service(service), || {
            Some(self.hash(&*self.local_instance(id)?))
        })
        .await?;
        let entry = self.local_instance(id).ok_or_else(unknown)?;
        let hash = self.hash(&entry);
        let mut shown = AgentService::new(&entry.instance, &self.agent);
        shown.content_hash = Some(hash.clone());
        Ok(Self::plain(request, &shown)?.with_text("x-consul-contenthash", &hash))
    }

    /// Returns a hash that differs between two states of a service.
    fn hash(&self, entry: &Entry) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write(&serde_json::to_vec(&AgentService::new(&entry.instance, &self.agent)).unwrap_or_default());
        format!("{:016x}", hasher.finish())
    }

    pub(super) fn agent_checks(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let filter = ConsulFilter::parse(request.query.get("filter"), &CHECKS)?;
        let (entries, node) = (self.local_instances(), self.registry().node(""));
        let name = self.agent.display_name("");
        let of_services = entries.iter().flat_map(|entry| checks_of(&entry.instance, &name, &self.checks));
        let of_node = node.iter().flat_map(|node| checks_of_node(&node.instance, &name, &self.checks));
        let all = of_services.chain(of_node).map(HealthCheck::without_indexes).filter(|check| filter.matches(check));
        let all: BTreeMap<_, _> = all.map(|check| (check.check_id.clone(), check)).collect();
        Ok(Self::compressible(request, encode(&all, request.query.pretty)?))
    }

    fn health<'a>(&'a self, entry: &'a Entry, node: Option<&'a Entry>) -> ServiceHealth<'a> {
        let name = self.agent.display_name("");
        let own = checks_of(&entry.instance, &name, &self.checks);
        let (maintenance, mut checks): (Vec<_>, Vec<_>) = own.into_iter().partition(HealthCheck::is_maintenance);
        if let Some(node) = node {
            checks.extend(checks_of_node(&node.instance, &name, &self.checks));
        }
        checks.extend(maintenance);
        ServiceHealth {
            aggregated_status: AggregateHealth::of(entry).as_str(),
            service: Some(AgentService::new(&entry.instance, &self.agent)),
            checks: Some(checks.into_iter().map(HealthCheck::brief).collect()),
        }
    }

    pub(super) fn agent_health_by_id(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing serviceID"));
        }
        let Some(entry) = self.local_instance(&request.subject) else {
            let nothing = ServiceHealth { aggregated_status: "critical", service: None, checks: None };
            return health_response(
                request,
                StatusCode::NOT_FOUND,
                &format!("ServiceId {} not found", request.subject),
                &nothing,
            );
        };
        let aggregate = AggregateHealth::of(&entry);
        let node = self.registry().node("");
        health_response(request, aggregate.status(), aggregate.as_str(), &self.health(&entry, node.as_deref()))
    }

    pub(super) fn agent_health_by_name(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service Name"));
        }
        let is_asked = |entry: &Arc<Entry>| entry.instance.service.as_str().eq_ignore_ascii_case(&request.subject);
        let entries = self.local_instances().into_iter().filter(is_asked);
        let entries: Vec<_> = entries.collect();
        let Some(worst) = entries.iter().map(|entry| AggregateHealth::of(entry)).max() else {
            let reason = format!("ServiceName {} Not Found", request.subject);
            return health_response(request, StatusCode::NOT_FOUND, &reason, &[(); 0]);
        };
        let node = self.registry().node("");
        let all: Vec<_> = entries.iter().map(|entry| self.health(entry, node.as_deref())).collect();
        health_response(request, worst.status(), worst.as_str(), &all)
    }
}

/// Returns the response with a status and its reason: the complete answer, or with `?format=text` the reason alone.
fn health_response(
    request: &ConsulRequest,
    status: StatusCode,
    reason: &str,
    answer: &impl Serialize,
) -> Result<ConsulResponse, ConsulError> {
    let text = request.query.get("format") == Some("text");
    let response = if text {
        ConsulResponse::new(status, reason.to_owned().into()).with(CONTENT_TYPE, "text/plain")
    } else {
        ConsulResponse { status, ..ConsulResponse::json(encode(answer, request.query.pretty)?) }
    };
    Ok(response.with_text("x-consul-reason", reason))
}

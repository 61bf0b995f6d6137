//! `/v1/agent/…`: what was registered here, in Consul's words, on our own node.

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

/// A service and how it is.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health<'a> {
    aggregated_status: &'static str,
    service: Option<AgentService<'a>>,
    checks: Option<Vec<BriefCheck<'a>>>,
}

/// The state of a whole, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Aggregate {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Aggregate {
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

    /// Of an instance, its node included.
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
    /// Services of the local node, by id.
    pub(in crate::protocol::consul) fn own(&self) -> Vec<Arc<Entry>> {
        let registry = self.registry();
        let mut listed = registry.consul_index().on_node(&node_id(""));
        listed.sort();
        listed.into_iter().filter_map(|(id, service)| registry.get(&service, id.as_str())).collect()
    }

    /// Service of the local node with this id.
    pub(in crate::protocol::consul) fn own_by_id(&self, id: &str) -> Option<Arc<Entry>> {
        let id = id_on_node("", id);
        let service = self.registry().consul_index().service_of(&id)?;
        self.registry().get(&service, &id)
    }

    pub(super) fn agent_services(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let wanted = ConsulFilter::parse(call.query.get("filter"), &SERVICES)?;
        let entries = self.own();
        let services =
            entries.iter().map(|entry| (service_id(&entry.instance), AgentService::new(&entry.instance, &self.agent)));
        let services: BTreeMap<_, _> = services.filter(|(_, service)| wanted.takes(service)).collect();
        Ok(Self::packed(call, encode(&services, call.query.pretty)?))
    }

    pub(super) async fn agent_service(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let id = &call.subject;
        let unknown = || ConsulError::NotFound(format!("unknown service ID: {id}"));
        let service = self.own_by_id(id).ok_or_else(unknown)?.instance.service.clone();
        self.wait_for_other(call, &QuerySubject::Service(service), || Some(self.hash(&*self.own_by_id(id)?))).await?;
        let entry = self.own_by_id(id).ok_or_else(unknown)?;
        let hash = self.hash(&entry);
        let mut shown = AgentService::new(&entry.instance, &self.agent);
        shown.content_hash = Some(hash.clone());
        Ok(Self::plain(call, &shown)?.with_text("x-consul-contenthash", &hash))
    }

    /// What tells one state of a service from another.
    fn hash(&self, entry: &Entry) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write(&serde_json::to_vec(&AgentService::new(&entry.instance, &self.agent)).unwrap_or_default());
        format!("{:016x}", hasher.finish())
    }

    pub(super) fn agent_checks(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CHECKS)?;
        let (entries, node) = (self.own(), self.registry().node(""));
        let name = self.agent.display_name("");
        let of_services = entries.iter().flat_map(|entry| checks_of(&entry.instance, &name, &self.checks));
        let of_node = node.iter().flat_map(|node| checks_of_node(&node.instance, &name, &self.checks));
        let all = of_services.chain(of_node).map(HealthCheck::of_agent).filter(|check| wanted.takes(check));
        let all: BTreeMap<_, _> = all.map(|check| (check.check_id.clone(), check)).collect();
        Ok(Self::packed(call, encode(&all, call.query.pretty)?))
    }

    fn health<'a>(&'a self, entry: &'a Entry, node: Option<&'a Entry>) -> Health<'a> {
        let name = self.agent.display_name("");
        let own = checks_of(&entry.instance, &name, &self.checks);
        let (last, mut checks): (Vec<_>, Vec<_>) = own.into_iter().partition(HealthCheck::is_maintenance);
        if let Some(node) = node {
            checks.extend(checks_of_node(&node.instance, &name, &self.checks));
        }
        checks.extend(last);
        Health {
            aggregated_status: Aggregate::of(entry).as_str(),
            service: Some(AgentService::new(&entry.instance, &self.agent)),
            checks: Some(checks.into_iter().map(HealthCheck::brief).collect()),
        }
    }

    pub(super) fn agent_health_by_id(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing serviceID"));
        }
        let Some(entry) = self.own_by_id(&call.subject) else {
            let nothing = Health { aggregated_status: "critical", service: None, checks: None };
            return told(call, StatusCode::NOT_FOUND, &format!("ServiceId {} not found", call.subject), &nothing);
        };
        let aggregate = Aggregate::of(&entry);
        let node = self.registry().node("");
        told(call, aggregate.status(), aggregate.as_str(), &self.health(&entry, node.as_deref()))
    }

    pub(super) fn agent_health_by_name(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service Name"));
        }
        let is_asked = |entry: &Arc<Entry>| entry.instance.service.as_str().eq_ignore_ascii_case(&call.subject);
        let entries = self.own().into_iter().filter(is_asked);
        let entries: Vec<_> = entries.collect();
        let Some(worst) = entries.iter().map(|entry| Aggregate::of(entry)).max() else {
            let why = format!("ServiceName {} Not Found", call.subject);
            return told(call, StatusCode::NOT_FOUND, &why, &[(); 0]);
        };
        let node = self.registry().node("");
        let all: Vec<_> = entries.iter().map(|entry| self.health(entry, node.as_deref())).collect();
        told(call, worst.status(), worst.as_str(), &all)
    }
}

/// The answer with its reason: all of it, or the reason alone.
fn told(
    call: &ConsulRequest,
    status: StatusCode,
    reason: &str,
    whole: &impl Serialize,
) -> Result<ConsulResponse, ConsulError> {
    let text = call.query.get("format") == Some("text");
    let reply = if text {
        ConsulResponse::new(status, reason.to_owned().into()).with(CONTENT_TYPE, "text/plain")
    } else {
        ConsulResponse { status, ..ConsulResponse::json(encode(whole, call.query.pretty)?) }
    };
    Ok(reply.with_text("x-consul-reason", reason))
}

//! `XdsService/ListPolicyLimitations`: the fields of a policy that connected clients would ignore or approximate.

use std::{collections::BTreeMap, sync::Arc};

use super::{XdsApi, client_family::ClientFamily, error::XdsError, limitations::limitations};
use crate::{
    app::XdsWatch,
    model::{EffectivePolicy, PolicyScope, Revision, ServiceName, ServicePolicy},
    pb::{callboard::v1 as pb, policy_document::decode_document},
};

/// Maximum number of limitations in a response. Clients choose the names of their libraries.
const MAX_LIMITATIONS: usize = 1_000;

/// Returns the fields of a policy that connected clients would ignore or approximate.
pub(super) fn policy_limitations(
    api: &XdsApi,
    request: &pb::ListPolicyLimitationsRequest,
) -> Result<pb::ListPolicyLimitationsResponse, XdsError> {
    let service = match &*request.service {
        "" => None,
        name => Some(ServiceName::parse(name)?),
    };
    let policy = requested_policy(api, service.as_ref(), request)?;
    // Number of streams by the library and version of their clients.
    let mut agents: BTreeMap<String, (ClientFamily, u32)> = BTreeMap::new();
    for stream in api.streams.all() {
        if service.as_ref().is_none_or(|service| stream.reads(service)) {
            let node = &stream.state.lock().node;
            agents.entry(node.agent()).or_insert_with(|| (ClientFamily::of(node), 0)).1 += 1;
        }
    }
    let mut found: Vec<_> = agents
        .iter()
        .flat_map(|(agent, (family, streams))| {
            limitations(&policy, *family).into_iter().map(move |limitation| pb::PolicyLimitation {
                field: limitation.field,
                agent: agent.clone(),
                streams: *streams,
                behaviour: limitation.behaviour.to_owned(),
                since: limitation.since.map(|since| since.to_string()).unwrap_or_default(),
            })
        })
        .collect();
    // Stable, so that the libraries of a field stay in order.
    found.sort_by(|one, other| one.field.cmp(&other.field));
    found.truncate(MAX_LIMITATIONS);
    Ok(pb::ListPolicyLimitationsResponse { limitations: found })
}

/// Returns the policy of a request, or the present one, with the defaults merged in.
fn requested_policy(
    api: &XdsApi,
    service: Option<&ServiceName>,
    request: &pb::ListPolicyLimitationsRequest,
) -> Result<Arc<EffectivePolicy>, XdsError> {
    let scope = service.map_or(PolicyScope::Defaults, |service| PolicyScope::Service(service.clone()));
    let view = api.context.engine.registry().policies().view(&scope);
    let Some(document) = &request.policy else { return Ok(view.effective) };
    let policy = ServicePolicy::from_document(&scope, &decode_document(Some(document)))?;
    let effective = match scope {
        PolicyScope::Service(_) => {
            let requested = request.defaults.as_ref().map(|defaults| {
                let defaults = decode_document(Some(defaults));
                ServicePolicy::from_document(&PolicyScope::Defaults, &defaults)
                    .map_err(|error| error.within("defaults"))
            });
            let requested = requested.transpose()?;
            let defaults = requested.as_ref().or(view.defaults.as_ref().map(|newest| &newest.policy));
            EffectivePolicy::merge(Some(&policy), defaults, Revision(0))
        }
        PolicyScope::Defaults => EffectivePolicy::merge(None, Some(&policy), Revision(0)),
    };
    effective.validate()?;
    Ok(Arc::new(effective))
}

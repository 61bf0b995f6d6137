//! `XdsService/GetPolicyRollout`: which clients have the present policy of a service.

use std::sync::Arc;

use super::{
    XdsApi,
    error::XdsError,
    stream_list::{XdsStream, XdsStreamState},
};
use crate::{
    model::{EffectivePolicy, Revision, ServiceName},
    pb::callboard::v1 as pb,
};

/// Maximum number of streams in a response.
const MAX_UNSYNCED: usize = 100;

/// Returns which clients have the present policy of a service, or of all services.
pub(super) fn policy_rollout(
    api: &XdsApi,
    request: &pb::GetPolicyRolloutRequest,
) -> Result<pb::GetPolicyRolloutResponse, XdsError> {
    let policies = api.context.engine.registry().policies();
    let effective = |service: &ServiceName| policies.effective(service);
    let service = match &*request.service {
        "" => None,
        name => Some(ServiceName::parse(name)?),
    };
    let revision = match &service {
        Some(service) => policies.effective(service).revision,
        None => policies.revision(),
    };
    let mut response = pb::GetPolicyRolloutResponse { revision: revision.0, ..Default::default() };
    for stream in api.streams.all() {
        match unsynced(&stream, service.as_ref(), effective) {
            StreamRollout::OtherServices => {}
            StreamRollout::Synced => {
                response.streams += 1;
                response.synced += 1;
            }
            StreamRollout::Unsynced(unsynced) => {
                response.streams += 1;
                if response.unsynced.len() < MAX_UNSYNCED {
                    response.unsynced.push(*unsynced);
                }
            }
        }
    }
    Ok(response)
}

/// State of the policies of one stream.
enum StreamRollout {
    /// The stream does not subscribe to the service.
    OtherServices,
    Synced,
    Unsynced(Box<pb::UnsyncedStream>),
}

fn unsynced(
    stream: &XdsStream,
    service: Option<&ServiceName>,
    effective: impl Fn(&ServiceName) -> Arc<EffectivePolicy>,
) -> StreamRollout {
    let state = stream.state.lock();
    let services: Vec<ServiceName> = match service {
        Some(service) if state.session.includes_service(service.as_str()) => vec![service.clone()],
        Some(_) => return StreamRollout::OtherServices,
        None => state.session.services().into_iter().filter_map(|name| ServiceName::parse(name).ok()).collect(),
    };
    if services.is_empty() {
        return StreamRollout::OtherServices;
    }
    let first = services.iter().find_map(|service| problem(&state, service, &effective(service)));
    let Some((revision, reason)) = first else { return StreamRollout::Synced };
    StreamRollout::Unsynced(Box::new(pb::UnsyncedStream {
        node_id: state.node.id.clone(),
        agent: state.node.agent(),
        peer: stream.peer.to_string(),
        policy_revision: revision.0,
        reason,
    }))
}

/// Returns the revision of the policy that the client has, and the reason for which that is not the present one. `None`: it is.
fn problem(
    state: &XdsStreamState,
    service: &ServiceName,
    present: &Arc<EffectivePolicy>,
) -> Option<(Revision, String)> {
    let Some(rollout) = state.policies.get(service.as_str()) else {
        let reason = || "the client was not sent the policy yet".to_owned();
        return (present.revision > Revision(0)).then(|| (Revision(0), reason()));
    };
    let has = rollout.accepted_revision();
    if let Some(rejected) = rollout.rejected() {
        let reason = format!("the client rejected the policy of revision {}: {}", rejected.revision.0, rejected.error);
        return Some((has, reason));
    }
    if !rollout.is_target(present) {
        return Some((has, "the client was not sent the policy yet".to_owned()));
    }
    if rollout.is_complete() {
        return None;
    }
    let clusters = rollout.listed().iter().map(|cluster| &**cluster);
    let reason = match state.session.unconfirmed(service.as_str(), clusters) {
        Some((kind, name)) => format!("the client has not accepted {} {name} yet", kind.label()),
        None => "the next step of the change follows".to_owned(),
    };
    Some((has, reason))
}

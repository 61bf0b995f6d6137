//! Fields of a policy that connected clients would ignore or approximate.

use serde::Serialize;

use super::{PolicyTarget, fields::PolicyFields};
use crate::{
    cli::{
        connection::{ServerConnection, with_deadline},
        error::CliError,
        output::Printable,
        view::{or_dash, set},
    },
    pb::callboard::v1::{ListPolicyLimitationsRequest, PolicyLimitation},
};

#[derive(Debug, Serialize)]
pub(super) struct PolicyLimitationView {
    field: String,
    agent: String,
    streams: u32,
    behaviour: String,
    /// `None` if no version of the library follows the field.
    since: Option<String>,
}

impl From<PolicyLimitation> for PolicyLimitationView {
    fn from(limitation: PolicyLimitation) -> Self {
        Self {
            field: limitation.field,
            agent: limitation.agent,
            streams: limitation.streams,
            behaviour: limitation.behaviour,
            since: set(limitation.since),
        }
    }
}

impl Printable for PolicyLimitationView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["FIELD", "CLIENT", "STREAMS", "BEHAVIOUR", "SINCE"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![
            self.field.clone(),
            self.agent.clone(),
            self.streams.to_string(),
            self.behaviour.clone(),
            or_dash(self.since.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.field.clone()
    }
}

/// Fetches the limitations that a document would have. `defaults`: defaults that are set along with it.
pub(super) async fn limitations(
    connection: &ServerConnection,
    target: &PolicyTarget,
    document: &PolicyFields,
    defaults: Option<&PolicyFields>,
) -> Result<Vec<PolicyLimitationView>, CliError> {
    let request = ListPolicyLimitationsRequest {
        service: target.service(),
        policy: Some(document.to_proto()),
        defaults: defaults.map(PolicyFields::to_proto),
    };
    let response = connection.repeatable(async |server| {
        server.call(server.xds().list_policy_limitations(with_deadline(request.clone()))).await
    });
    Ok(response.await?.limitations.into_iter().map(PolicyLimitationView::from).collect())
}

//! Fields of a policy that connected clients would ignore or approximate.

use serde::Serialize;

use super::{PolicyTarget, fields::PolicyFields};
use crate::{
    cli::{
        connection::{ServerConnection, with_deadline},
        error::CliError,
        output::Printable,
        replicas::ask_all,
        terminal::{escape, print_stderr},
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
    // Each replica has clients of its own.
    let found = ask_all(connection, async |server| {
        let request = with_deadline(request.clone());
        let response = server.call(server.xds().list_policy_limitations(request)).await?;
        Ok((String::new(), response.limitations))
    });
    let found = found.await?;
    if let Some(missing) = found.missing_text() {
        print_stderr(&format!("warning: {}; their clients are not in the list", escape(&missing)));
    }
    let all = sum(found.answers.into_iter().flat_map(|(_, limitations)| limitations));
    Ok(all.into_iter().map(PolicyLimitationView::from).collect())
}

/// Joins the limitations of several replicas: those that are equal become one, with the streams of all.
fn sum(limitations: impl Iterator<Item = PolicyLimitation>) -> Vec<PolicyLimitation> {
    let mut all: Vec<PolicyLimitation> = Vec::new();
    for limitation in limitations {
        let is_same = |other: &&mut PolicyLimitation| {
            let PolicyLimitation { field, agent, behaviour, since, streams: _ } = &limitation;
            (&other.field, &other.agent, &other.behaviour, &other.since) == (field, agent, behaviour, since)
        };
        match all.iter_mut().find(is_same) {
            Some(known) => known.streams += limitation.streams,
            None => all.push(limitation),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_all_replicas_are_counted() {
        let limitation = |agent: &str, streams| PolicyLimitation {
            field: "shed".to_owned(),
            agent: agent.to_owned(),
            streams,
            ..PolicyLimitation::default()
        };
        let all = sum([limitation("go", 2), limitation("java", 1), limitation("go", 3)].into_iter());
        let counts: Vec<_> = all.iter().map(|limitation| (&*limitation.agent, limitation.streams)).collect();
        assert_eq!(counts, [("go", 5), ("java", 1)]);
    }
}

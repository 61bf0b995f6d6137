//! Streams of an explanation, in the form that JSON, YAML and tables show.

use serde::Serialize;

use crate::{
    cli::{
        output::Printable,
        view::{or_dash, set, time},
        xds::stream::{phrase, state},
    },
    pb::callboard::v1::{ServiceXdsStream, ServiceXdsSubscription},
};

#[derive(Debug, Serialize)]
pub(super) struct ServiceXdsStreamView {
    node_id: Option<String>,
    agent: Option<String>,
    peer: String,
    delta: bool,
    policy_revision: u64,
    subscriptions: Vec<ServiceXdsSubscriptionView>,
}

#[derive(Debug, Serialize)]
struct ServiceXdsSubscriptionView {
    r#type: String,
    name: String,
    state: &'static str,
    since: Option<String>,
    sent_version: Option<String>,
    /// Set if the client was last sent what it would get now.
    current: bool,
    error: Option<String>,
}

impl From<ServiceXdsStream> for ServiceXdsStreamView {
    fn from(stream: ServiceXdsStream) -> Self {
        Self {
            node_id: set(stream.node_id),
            agent: set(stream.agent),
            peer: stream.peer,
            delta: stream.delta,
            policy_revision: stream.policy_revision,
            subscriptions: stream.subscriptions.into_iter().map(ServiceXdsSubscriptionView::from).collect(),
        }
    }
}

impl From<ServiceXdsSubscription> for ServiceXdsSubscriptionView {
    fn from(found: ServiceXdsSubscription) -> Self {
        Self {
            state: state(found.state()),
            since: time(found.since),
            current: found.current,
            r#type: found.r#type,
            name: found.name,
            sent_version: set(found.sent_version),
            error: set(found.error),
        }
    }
}

impl ServiceXdsSubscriptionView {
    fn text(&self) -> String {
        let outdated = if self.current || self.sent_version.is_none() { "" } else { " (an earlier version)" };
        // Resources of a subset have its name.
        let subset = self.name.split_once('|').map(|(_, subset)| format!(" {subset}")).unwrap_or_default();
        format!(
            "{}{subset} {}{outdated}",
            self.r#type,
            phrase(self.state, self.since.as_deref(), self.error.as_deref())
        )
    }
}

impl Printable for ServiceXdsStreamView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["CLIENT", "LIBRARY", "PEER", "POLICY", "STATE"], &["PROTOCOL", "ERROR"]);

    fn cells(&self) -> Vec<String> {
        let states: Vec<_> = self.subscriptions.iter().map(ServiceXdsSubscriptionView::text).collect();
        let policy = (self.policy_revision > 0).then(|| format!("revision {}", self.policy_revision));
        let error = self.subscriptions.iter().find_map(|subscription| subscription.error.as_deref());
        vec![
            or_dash(self.node_id.as_deref()),
            or_dash(self.agent.as_deref()),
            self.peer.clone(),
            or_dash(policy.as_deref()),
            states.join(", "),
            if self.delta { "delta" } else { "state of the world" }.to_owned(),
            or_dash(error),
        ]
    }

    fn name(&self) -> String {
        self.node_id.clone().unwrap_or_default()
    }
}

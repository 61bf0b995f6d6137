//! xDS streams in the form that JSON, YAML and tables show.

use serde::Serialize;

use crate::{
    cli::view::{set, time},
    pb::callboard::v1::{XdsState, XdsStream, XdsSubscription},
};

/// Maximum number of characters of a client's error in a table.
const MAX_ERROR_CHARS: usize = 80;

/// State of an xDS stream. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct XdsStreamView {
    pub(in crate::cli) node_id: Option<String>,
    pub(in crate::cli) agent: Option<String>,
    delta: bool,
    subscriptions: Vec<XdsSubscriptionView>,
}

#[derive(Debug, Serialize)]
struct XdsSubscriptionView {
    r#type: String,
    resources: u32,
    wildcard: bool,
    state: &'static str,
    since: Option<String>,
    sent_revision: u64,
    accepted_revision: u64,
    error: Option<String>,
}

impl From<XdsStream> for XdsStreamView {
    fn from(stream: XdsStream) -> Self {
        let mut subscriptions: Vec<_> = stream.subscriptions.into_iter().map(XdsSubscriptionView::from).collect();
        // The order in which gRPC asks for them.
        let order = |kind: &str| ["LDS", "RDS", "CDS", "EDS"].iter().position(|known| *known == kind);
        subscriptions.sort_by_key(|subscription| order(&subscription.r#type));
        Self { node_id: set(stream.node_id), agent: set(stream.agent), delta: stream.delta, subscriptions }
    }
}

impl From<XdsSubscription> for XdsSubscriptionView {
    fn from(subscription: XdsSubscription) -> Self {
        Self {
            state: state(subscription.state()),
            r#type: subscription.r#type,
            resources: subscription.resources,
            wildcard: subscription.wildcard,
            since: time(subscription.since),
            sent_revision: subscription.sent_revision,
            accepted_revision: subscription.accepted_revision,
            error: set(subscription.error),
        }
    }
}

impl XdsStreamView {
    /// Returns the number of resources by type: `CDS all (200), EDS 200`.
    pub(in crate::cli) fn watched(&self) -> String {
        let counts = self.subscriptions.iter().map(|XdsSubscriptionView { r#type, resources, wildcard, .. }| {
            if *wildcard { format!("{type} all ({resources})") } else { format!("{type} {resources}") }
        });
        counts.collect::<Vec<_>>().join(", ")
    }

    /// Returns the states other than SYNCED, or SYNCED if there are none. `None`: the client has asked for nothing.
    pub(in crate::cli) fn state(&self) -> Option<String> {
        let others = self.subscriptions.iter().filter(|subscription| subscription.state != SYNCED);
        let others: Vec<_> = others
            .map(|XdsSubscriptionView { r#type, state, since, error, .. }| {
                format!("{type} {}", phrase(state, since.as_deref(), error.as_deref()))
            })
            .collect();
        if others.is_empty() { self.subscriptions.first().map(|_| SYNCED.to_owned()) } else { Some(others.join(", ")) }
    }

    /// Returns the whole errors of all types.
    pub(in crate::cli) fn errors(&self) -> Option<String> {
        let errors = self.subscriptions.iter().filter_map(|XdsSubscriptionView { r#type, error, .. }| {
            error.as_ref().map(|error| format!("{type}: {error}"))
        });
        set(errors.collect::<Vec<_>>().join("; "))
    }
}

const SYNCED: &str = "SYNCED";

/// Returns the name of a state: `SYNCED`.
pub(super) fn state(state: XdsState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("XDS_STATE_").unwrap_or(name)
}

/// Returns a state with its time or error, for a table: `STALE since 2026-11-27T12:00:00.000Z`, `NACKED: the client's error`.
pub(super) fn phrase(state: &str, since: Option<&str>, error: Option<&str>) -> String {
    let since = if state == "STALE" { since.map(|since| format!(" since {since}")) } else { None };
    let error = error.map(|error| match error.char_indices().nth(MAX_ERROR_CHARS) {
        Some((end, _)) => format!(": {}…", &error[..end]),
        None => format!(": {error}"),
    });
    [Some(state.to_owned()), since, error].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn subscription(kind: &str, state: XdsState) -> XdsSubscription {
        let since = (state != XdsState::NotSent).then_some(Timestamp { seconds: 1_796_000_000, nanos: 0 });
        XdsSubscription {
            r#type: kind.to_owned(),
            resources: 1,
            state: state.into(),
            since,
            ..XdsSubscription::default()
        }
    }

    fn view(subscriptions: Vec<XdsSubscription>) -> XdsStreamView {
        XdsStream { subscriptions, ..XdsStream::default() }.into()
    }

    #[test]
    fn stream_lists_what_it_watches_in_the_order_of_grpc() {
        let mut all = subscription("CDS", XdsState::Synced);
        (all.wildcard, all.resources) = (true, 200);
        let stream = view(vec![all, subscription("EDS", XdsState::Synced), subscription("LDS", XdsState::Synced)]);
        assert_eq!(stream.watched(), "LDS 1, CDS all (200), EDS 1");
        assert_eq!(stream.state().as_deref(), Some("SYNCED"));
        assert_eq!((view(Vec::new()).state(), stream.errors()), (None, None));
    }

    #[test]
    fn table_has_the_states_that_need_attention_and_the_beginning_of_errors() {
        let mut rejected = subscription("EDS", XdsState::Nacked);
        rejected.error = format!("duplicate {}", "address ".repeat(20));
        let whole = format!("EDS: {}", rejected.error);
        let stream = view(vec![
            subscription("LDS", XdsState::Synced),
            subscription("CDS", XdsState::Stale),
            rejected,
            subscription("RDS", XdsState::NotSent),
        ]);
        let state = stream.state().unwrap();
        let (before, error) = state.split_once("EDS NACKED: ").unwrap();
        assert_eq!(before, "RDS NOT_SENT, CDS STALE since 2026-11-30T00:53:20.000Z, ");
        assert_eq!(error.chars().count(), MAX_ERROR_CHARS + 1, "{error}");
        assert!(error.starts_with("duplicate address") && error.ends_with('…'), "{error}");
        assert_eq!(stream.errors(), Some(whole));
    }
}

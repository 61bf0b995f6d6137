//! Policy, client and routes of an explanation, in the form that JSON, YAML and tables show.

use prost_types::Duration;
use serde::Serialize;

use crate::{
    cli::{
        output::Printable,
        policy::{PolicyFields, inline},
        view::{duration, or_dash, set},
    },
    pb::callboard::v1::{
        ClusterShare, ExplainedClient, ExplainedPolicy, ExplainedRetries, ExplainedRoute, PolicyLimitation,
    },
};

/// Fields that have tables of their own.
const TABLES: [&str; 4] = ["default", "empty", "route", "subsets"];

#[derive(Debug, Serialize)]
pub(super) struct ExplainedPolicyView {
    pub(super) revision: u64,
    effective: PolicyFields,
    own: Vec<String>,
    inherited: Vec<String>,
}

/// Row of a field that the policy or the defaults set.
#[derive(Debug, Serialize)]
pub(super) struct PolicyFieldRow {
    field: String,
    value: String,
    origin: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplainedClientView {
    agent: Option<String>,
    zone: Option<String>,
    pub(super) limitations: Vec<ClientLimitationView>,
}

#[derive(Debug, Serialize)]
pub(super) struct ClientLimitationView {
    field: String,
    behaviour: String,
    /// `None` if no version of the library follows the field.
    since: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplainedRouteView {
    field: String,
    conditions: Vec<String>,
    taken: bool,
    reason: Option<String>,
    shares: Vec<ClusterShareView>,
    timeout: Option<String>,
    retries: Option<ExplainedRetriesView>,
    hash_header: Option<String>,
}

#[derive(Debug, Serialize)]
struct ClusterShareView {
    cluster: String,
    percent: u32,
}

#[derive(Debug, Serialize)]
struct ExplainedRetriesView {
    attempts: u32,
    on: Vec<String>,
    backoff: Option<String>,
    max_backoff: Option<String>,
}

/// Returns a duration as policies write it: `1m 30s`.
pub(super) fn shown(limit: Option<Duration>) -> Option<String> {
    duration(limit).map(|limit| humantime::format_duration(limit).to_string())
}

impl From<ExplainedPolicy> for ExplainedPolicyView {
    fn from(ExplainedPolicy { revision, effective, own, inherited }: ExplainedPolicy) -> Self {
        Self { revision, effective: PolicyFields::from_proto(effective), own, inherited }
    }
}

impl ExplainedPolicyView {
    /// Returns the fields that the policy or the defaults set, except for those with tables of their own.
    pub(super) fn rows(&self) -> Vec<PolicyFieldRow> {
        let origin = |field: &str| match field {
            field if self.own.iter().any(|own| own == field) => Some("the service"),
            field if self.inherited.iter().any(|inherited| inherited == field) => Some("the defaults"),
            _ => None,
        };
        let fields = self.effective.in_order().filter(|(field, _)| !TABLES.contains(field));
        let rows = fields.filter_map(|(field, value)| {
            Some(PolicyFieldRow { field: field.to_owned(), value: inline(value), origin: origin(field)? })
        });
        rows.collect()
    }
}

impl From<ExplainedClient> for ExplainedClientView {
    fn from(ExplainedClient { agent, zone, limitations }: ExplainedClient) -> Self {
        let limitations = limitations.into_iter().map(ClientLimitationView::from).collect();
        Self { agent: set(agent), zone: set(zone), limitations }
    }
}

impl ExplainedClientView {
    /// Returns the library and the zone in words.
    pub(super) fn text(&self) -> String {
        let agent = self.agent.as_deref().unwrap_or("any library (name one with --as)");
        match &self.zone {
            Some(zone) => format!("{agent} in zone {zone}"),
            None => agent.to_owned(),
        }
    }
}

impl From<PolicyLimitation> for ClientLimitationView {
    fn from(limitation: PolicyLimitation) -> Self {
        Self { field: limitation.field, behaviour: limitation.behaviour, since: set(limitation.since) }
    }
}

impl From<ExplainedRoute> for ExplainedRouteView {
    fn from(route: ExplainedRoute) -> Self {
        let share = |ClusterShare { cluster, percent }| ClusterShareView { cluster, percent };
        Self {
            field: route.field,
            conditions: route.conditions,
            taken: route.taken,
            reason: set(route.reason),
            shares: route.shares.into_iter().map(share).collect(),
            timeout: shown(route.timeout),
            retries: route.retries.map(ExplainedRetriesView::from),
            hash_header: set(route.hash_header),
        }
    }
}

impl ExplainedRouteView {
    /// Returns the route and its destination in words, if the call takes it.
    pub(super) fn text(&self) -> Option<String> {
        self.taken.then(|| format!("{} to {}", self.field, self.destination()))
    }

    fn destination(&self) -> String {
        let share = |share: &ClusterShareView| match share.percent {
            100 => share.cluster.clone(),
            percent => format!("{} {percent}%", share.cluster),
        };
        self.shares.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

impl From<ExplainedRetries> for ExplainedRetriesView {
    fn from(ExplainedRetries { attempts, on, backoff, max_backoff }: ExplainedRetries) -> Self {
        Self { attempts, on, backoff: shown(backoff), max_backoff: shown(max_backoff) }
    }
}

impl Printable for PolicyFieldRow {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["FIELD", "VALUE", "FROM"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![self.field.clone(), self.value.clone(), self.origin.to_owned()]
    }

    fn name(&self) -> String {
        self.field.clone()
    }
}

impl Printable for ClientLimitationView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["NOT FOLLOWED", "BEHAVIOUR", "SINCE"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![self.field.clone(), self.behaviour.clone(), or_dash(self.since.as_deref())]
    }

    fn name(&self) -> String {
        self.field.clone()
    }
}

impl Printable for ExplainedRouteView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["ROUTE", "CONDITIONS", "TAKEN", "TO", "TIMEOUT", "RETRIES"], &["HASH HEADER"]);

    fn cells(&self) -> Vec<String> {
        let conditions = set(self.conditions.join(" and "));
        let taken = self.reason.as_ref().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}"));
        let retries = self.retries.as_ref().map(|retries| format!("{} on {}", retries.attempts, retries.on.join(", ")));
        vec![
            self.field.clone(),
            or_dash(conditions.as_deref()),
            taken,
            self.destination(),
            or_dash(self.timeout.as_deref()),
            or_dash(retries.as_deref()),
            or_dash(self.hash_header.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.field.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    #[test]
    fn policy_shows_the_fields_that_are_set_with_their_origin() {
        let effective = fields(json!({"timeout": "5s", "lb": "least_request", "shed": 0, "subsets": {"v2": "x"}}));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let policy = ExplainedPolicyView {
            revision: 7,
            effective,
            own: names(&["timeout", "subsets"]),
            inherited: names(&["lb"]),
        };
        let rows: Vec<_> = policy.rows().iter().map(Printable::cells).collect();
        assert_eq!(rows, [["lb", "\"least_request\"", "the defaults"], ["timeout", "\"5s\"", "the service"]]);
    }

    #[test]
    fn route_has_its_conditions_and_the_reason_for_which_it_is_not_taken() {
        let share = |cluster: &str, percent| ClusterShare { cluster: cluster.to_owned(), percent };
        let route = |taken, reason: &str, shares| {
            ExplainedRouteView::from(ExplainedRoute {
                field: "route[0]".to_owned(),
                conditions: vec!["method is /a/b".to_owned(), "header x is present".to_owned()],
                taken,
                reason: reason.to_owned(),
                shares,
                timeout: Some(Duration { seconds: 90, nanos: 0 }),
                retries: Some(ExplainedRetries {
                    attempts: 2,
                    on: vec!["unavailable".to_owned()],
                    ..ExplainedRetries::default()
                }),
                hash_header: String::new(),
            })
        };
        let split = route(true, "", vec![share("web|v1", 90), share("web|v2", 10)]);
        assert_eq!(split.text().as_deref(), Some("route[0] to web|v1 90%, web|v2 10%"));
        let whole = route(false, "the call has no header x", vec![share("web", 100)]);
        assert_eq!(whole.text(), None);
        assert_eq!(
            whole.cells(),
            [
                "route[0]",
                "method is /a/b and header x is present",
                "no: the call has no header x",
                "web",
                "1m 30s",
                "2 on unavailable",
                "-",
            ]
        );
    }
}

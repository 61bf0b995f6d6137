//! Documents of policies.

use std::time::Duration;

use super::{
    DocumentTable, DocumentValue, EffectivePolicy, EmptySubset, HeaderMatch, MethodMatch, OutlierDetection,
    PolicyDocument, PolicyRoute, PolicySettings, RetryPolicy, ServicePolicy, Split,
};
use crate::model::ServiceName;

impl ServicePolicy {
    /// Returns the shortest document of the policy: fields that are open or have their default within another field are left out.
    #[must_use]
    pub fn to_document(&self) -> PolicyDocument {
        let mut table = settings(&self.settings);
        if !self.subsets.is_empty() {
            table.insert("subsets".to_owned(), subsets(self.subsets.iter()));
        }
        put_split(&mut table, "default", self.default_split.as_ref());
        if !self.fallback.is_empty() {
            table.insert("fallback".to_owned(), fallback(&self.fallback));
        }
        if !self.routes.is_empty() {
            table.insert("route".to_owned(), routes(&self.routes));
        }
        PolicyDocument(table)
    }
}

impl EffectivePolicy {
    /// Returns a document with all fields, except for those of routes, and for `default` and `empty` of a policy without a split.
    #[must_use]
    pub fn to_document(&self) -> PolicyDocument {
        let mut table = settings(&PolicySettings {
            lb: Some(self.lb),
            timeout: Some(self.timeout),
            max_requests: Some(self.max_requests.unwrap_or_default()),
            retry: None,
            outlier: None,
            weights: Some(self.weights),
            slow_start: Some(self.slow_start),
            zone: Some(self.zone),
            shed: Some(self.shed),
        });
        let no_retry = RetryPolicy::new(0);
        let fields = [
            ("retry", retry(self.retry.as_ref().unwrap_or(&no_retry), DocumentFields::All)),
            ("outlier", outlier(self.outlier.as_ref(), DocumentFields::All)),
            ("subsets", subsets(self.subsets.iter())),
            ("fallback", fallback(&self.fallback)),
            ("route", routes(&self.routes)),
        ];
        table.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        put_split(&mut table, "default", self.default_split.as_ref());
        if let Some(split) = &self.default_split {
            table.insert("empty".to_owned(), split.empty.as_str().into());
        }
        PolicyDocument(table)
    }

    /// Returns the fields of a policy that come from the defaults: those that the service leaves open and the defaults set.
    #[must_use]
    pub fn inherited_fields(service: Option<&ServicePolicy>, defaults: Option<&ServicePolicy>) -> Vec<String> {
        let own = service.map(|policy| settings(&policy.settings)).unwrap_or_default();
        let common = defaults.map(|policy| settings(&policy.settings)).unwrap_or_default();
        common.into_keys().filter(|name| !own.contains_key(name)).collect()
    }
}

/// Fields that a document shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DocumentFields {
    /// All.
    All,
    /// Fields whose value differs from that of a document without the field.
    Changed,
}

impl DocumentFields {
    fn table<const N: usize>(self, fields: [(&str, bool, DocumentValue); N]) -> DocumentValue {
        let shown = fields.into_iter().filter(|(_, changed, _)| *changed || self == Self::All);
        DocumentValue::Table(shown.map(|(name, _, value)| (name.to_owned(), value)).collect())
    }
}

fn settings(settings: &PolicySettings) -> DocumentTable {
    let PolicySettings {
        lb,
        timeout,
        max_requests,
        retry: retries,
        outlier: detection,
        weights,
        slow_start,
        zone,
        shed,
    } = settings;
    let fields = [
        ("lb", lb.map(|lb| lb.as_str().into())),
        ("timeout", timeout.map(duration)),
        ("max_requests", max_requests.map(Into::into)),
        ("retry", retries.as_ref().map(|policy| retry(policy, DocumentFields::Changed))),
        ("outlier", detection.map(|detection| outlier(detection.as_ref(), DocumentFields::Changed))),
        ("weights", weights.map(|source| source.as_str().into())),
        ("slow_start", slow_start.map(duration)),
        ("zone", zone.map(|zone| zone.as_str().into())),
        ("shed", shed.map(|percent| u32::from(percent).into())),
    ];
    fields.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect()
}

fn retry(policy: &RetryPolicy, fields: DocumentFields) -> DocumentValue {
    let default = RetryPolicy::new(policy.attempts);
    let codes = policy.on.iter().map(|code| code.as_str().into());
    let max_backoff = RetryPolicy::default_max_backoff(policy.backoff);
    fields.table([
        ("attempts", true, u32::from(policy.attempts).into()),
        ("on", policy.on != default.on, DocumentValue::List(codes.collect())),
        ("backoff", policy.backoff != default.backoff, duration(policy.backoff)),
        ("max_backoff", policy.max_backoff != max_backoff, duration(policy.max_backoff)),
    ])
}

fn outlier(detection: Option<&OutlierDetection>, fields: DocumentFields) -> DocumentValue {
    let Some(set) = detection else { return "off".into() };
    let default = OutlierDetection::default();
    if *set == default && fields == DocumentFields::Changed {
        return "default".into();
    }
    fields.table([
        ("failure_percent", set.failure_percent != default.failure_percent, u32::from(set.failure_percent).into()),
        ("hosts", set.hosts != default.hosts, set.hosts.into()),
        ("calls", set.calls != default.calls, set.calls.into()),
        ("interval", set.interval != default.interval, duration(set.interval)),
        ("eject", set.eject != default.eject, duration(set.eject)),
        ("max_percent", set.max_percent != default.max_percent, u32::from(set.max_percent).into()),
    ])
}

fn subsets<'a>(subsets: impl Iterator<Item = (&'a super::SubsetName, &'a super::Subset)>) -> DocumentValue {
    let filters = subsets.map(|(name, subset)| (name.to_string(), subset.filter.as_str().into()));
    DocumentValue::Table(filters.collect())
}

/// Puts a split into the field `name`, and its `empty` beside it unless that is the default.
fn put_split(table: &mut DocumentTable, name: &str, split: Option<&Split>) {
    let Some(split) = split else { return };
    let shares = split.shares.iter().map(|(subset, share)| (subset.to_string(), u32::from(*share).into()));
    table.insert(name.to_owned(), DocumentValue::Table(shares.collect()));
    if split.empty != EmptySubset::default() {
        table.insert("empty".to_owned(), split.empty.as_str().into());
    }
}

fn fallback(services: &[ServiceName]) -> DocumentValue {
    DocumentValue::List(services.iter().map(|service| service.as_str().into()).collect())
}

fn routes(routes: &[PolicyRoute]) -> DocumentValue {
    DocumentValue::List(routes.iter().map(route).collect())
}

fn route(route: &PolicyRoute) -> DocumentValue {
    let mut table = DocumentTable::new();
    if !route.headers.is_empty() {
        let conditions = route.headers.iter();
        let conditions = conditions.map(|condition| (condition.name.to_string(), header_match(&condition.matches)));
        table.insert("header".to_owned(), DocumentValue::Table(conditions.collect()));
    }
    put_split(&mut table, "to", route.split.as_ref());
    let fields = [
        ("method", route.method.as_ref().map(|method| method_match(method).as_str().into())),
        ("timeout", route.timeout.map(duration)),
        ("retry", route.retry.as_ref().map(|policy| retry(policy, DocumentFields::Changed))),
        ("hash_header", route.hash_header.as_deref().map(Into::into)),
    ];
    table.extend(fields.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))));
    DocumentValue::Table(table)
}

fn header_match(condition: &HeaderMatch) -> DocumentValue {
    DocumentValue::Text(match condition {
        HeaderMatch::Exact(value) if value.starts_with(['=', '*', '!', '~']) => format!("={value}"),
        HeaderMatch::Exact(value) => value.to_string(),
        HeaderMatch::Present => "*".to_owned(),
        HeaderMatch::Absent => "!".to_owned(),
        HeaderMatch::Regex(pattern) => format!("~{pattern}"),
    })
}

fn method_match(method: &MethodMatch) -> String {
    match method {
        MethodMatch::Exact(path) => path.to_string(),
        MethodMatch::Service(prefix) => format!("{prefix}*"),
    }
}

fn duration(duration: Duration) -> DocumentValue {
    DocumentValue::Text(humantime::format_duration(duration).to_string())
}

//! Parameters of all endpoints, and the headers that replace them.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, HeaderName, header::ACCEPT_ENCODING, request::Parts};
use percent_encoding::percent_decode_str;

use super::{AgentIdentity, ConsulError, body::go_duration};

/// Default of `wait`.
const DEFAULT_WAIT: Duration = Duration::from_mins(5);
/// Maximum of `wait`.
const MAX_WAIT: Duration = Duration::from_mins(10);
/// Parameters that do not change the body of an answer, so that queries which differ in these only have the same cache key.
const TRANSPORT_PARAMETERS: [&str; 8] =
    ["index", "wait", "token", "stale", "consistent", "cached", "max_stale", "hash"];

static NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");
static PARTITION: HeaderName = HeaderName::from_static("x-consul-partition");

/// Consistency that a query asks for. Here, all but a consistent query are answered from what the replica has, as Consul answers stale
/// ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consistency {
    Leader,
    Stale,
    Consistent,
}

impl Consistency {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Stale => "stale",
            Self::Consistent => "consistent",
        }
    }
}

/// Parameters of a request.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// Index that the client knows. 0: none.
    pub(super) index: u64,
    /// Maximum wait for a higher index.
    pub(super) wait: Duration,
    pub(super) consistency: Consistency,
    /// Maximum age of the state that an answer has. 0: any.
    pub(super) max_stale: Duration,
    pub(super) cached: bool,
    pub(super) pretty: bool,
    /// Set if the client accepts gzip.
    pub(super) gzip: bool,
}

impl Query {
    pub(super) fn parse(head: &Parts, agent: &AgentIdentity) -> Result<Self, ConsulError> {
        let pairs = pairs(head.uri.query().unwrap_or_default());
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        for (name, subject) in [("ns", "Namespaces are"), ("partition", "Partitions are")] {
            if find(name).is_some_and(|value| !value.is_empty()) {
                return Err(ConsulError::Enterprise(name, subject));
            }
        }
        for (header, name, subject) in
            [(&NAMESPACE, "X-Consul-Namespace", "Namespaces are"), (&PARTITION, "X-Consul-Partition", "Partitions are")]
        {
            if head.headers.get(header).is_some_and(|value| !value.is_empty()) {
                return Err(ConsulError::EnterpriseHeader(name, subject));
            }
        }
        if let Some(dc) = find("dc").filter(|dc| !dc.is_empty() && *dc != agent.datacenter) {
            tracing::debug!(dc, "rejected a query for another datacenter");
            return Err(ConsulError::NoPathToDatacenter);
        }
        let flag = |name: &str| find(name).is_some();
        let max_stale = find("max_stale").filter(|text| !text.is_empty()).map_or(Ok(Duration::ZERO), |text| {
            go_duration(text).ok_or_else(|| ConsulError::BadValue(format!("Invalid max_stale value {text:?}")))
        })?;
        let consistency = match (flag("stale") || !max_stale.is_zero(), flag("consistent")) {
            (true, true) => {
                return Err(ConsulError::BadRequest("Cannot specify ?stale with ?consistent, conflicting semantics."));
            }
            (true, false) => Consistency::Stale,
            (false, true) => Consistency::Consistent,
            (false, false) => Consistency::Leader,
        };
        if flag("cached") && flag("consistent") {
            return Err(ConsulError::BadRequest("Cannot specify ?cached with ?consistent, conflicting semantics."));
        }
        let index = find("index").filter(|text| !text.is_empty());
        let index = index.map_or(Ok(0), str::parse).map_err(|_| ConsulError::BadRequest("Invalid index"))?;
        let wait = find("wait").filter(|text| !text.is_empty());
        let wait = wait.map_or(Some(DEFAULT_WAIT), go_duration).ok_or(ConsulError::BadRequest("Invalid wait time"))?;
        let wait = if wait.is_zero() { DEFAULT_WAIT } else { wait.min(MAX_WAIT) };
        let (cached, pretty, gzip) = (flag("cached"), flag("pretty"), accepts_gzip(&head.headers));
        Ok(Self { pairs, index, wait, consistency, max_stale, cached, pretty, gzip })
    }

    /// Returns whether the query may wait for a change, by an index or a hash that the client knows.
    pub(super) fn may_wait(&self) -> bool {
        self.index > 0 || self.get("hash").is_some_and(|hash| !hash.is_empty())
    }

    /// Returns the first value of a parameter. Empty if the parameter has no value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns all values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the boolean value of a parameter, as Go parses it. A parameter without a value is true.
    pub(super) fn flag(&self, name: &'static str) -> Result<bool, ConsulError> {
        match self.get(name) {
            Some("" | "1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
            None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
            Some(_) => Err(ConsulError::InvalidFlag(name)),
        }
    }

    /// Returns the parameters that decide what the answer contains, in one text. Each part has its length before it, so that two
    /// different queries never have the same text, regardless of their values.
    pub(super) fn cache_key(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.pairs.iter().filter(|(key, _)| !TRANSPORT_PARAMETERS.contains(&key.as_str())) {
            for part in [key, value] {
                // Writing to a string does not fail.
                let _ = write!(text, "{}:{part}", part.len());
            }
        }
        text
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.next() != Some("q=0")
    })
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(key, true), decode(value, true))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// Decodes percent signs and, if `plus` is set, a plus sign as a blank.
pub(super) fn decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let text = if plus && text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_key(parameters: &str) -> String {
        let pairs = pairs(parameters);
        let (index, wait) = (0, DEFAULT_WAIT);
        let consistency = Consistency::Leader;
        let max_stale = Duration::ZERO;
        Query { pairs, index, wait, consistency, max_stale, cached: false, pretty: false, gzip: false }.cache_key()
    }

    #[test]
    fn cache_key_depends_on_parameters_that_change_the_body_only() {
        assert_eq!(cache_key("tag=a&passing"), cache_key("index=7&tag=a&wait=1s&stale&passing&token=x"));
        assert_ne!(cache_key("tag=a&passing"), cache_key("tag=a"));
    }

    #[test]
    fn cache_key_of_values_with_control_characters_is_not_that_of_other_parameters() {
        let keys = ["tag=a&passing", "tag=a%01passing%02", "tag=a7:passing0:", "tag=a&passing=&x", "tag=a&tag=passing"];
        for (at, one) in keys.iter().enumerate() {
            for other in &keys[at + 1..] {
                assert_ne!(cache_key(one), cache_key(other), "{one} {other}");
            }
        }
    }
}

//! The parameters that every endpoint has, and what stands in for them in headers.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, HeaderName, header::ACCEPT_ENCODING, request::Parts};
use percent_encoding::percent_decode_str;

use super::{AgentIdentity, ConsulError, body::go_duration};

/// How long a query waits where nothing is said, and at most.
const WAIT: Duration = Duration::from_mins(5);
const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Parameters that say how to answer, not what. So who asks the same otherwise gets the same bytes.
const HOW: [&str; 8] = ["index", "wait", "token", "stale", "consistent", "cached", "max_stale", "hash"];

static NAMESPACE: HeaderName = HeaderName::from_static("x-consul-namespace");
static PARTITION: HeaderName = HeaderName::from_static("x-consul-partition");

/// How fresh an answer must be. Here all are.
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

/// What was asked beside the path.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// The index that the client knows. 0: none.
    pub(super) index: u64,
    /// How long to wait for a higher one.
    pub(super) wait: Duration,
    pub(super) consistency: Consistency,
    pub(super) cached: bool,
    pub(super) pretty: bool,
    /// The client takes gzip.
    pub(super) gzip: bool,
}

impl Query {
    pub(super) fn parse(head: &Parts, agent: &AgentIdentity) -> Result<Self, ConsulError> {
        let pairs = pairs(head.uri.query().unwrap_or_default());
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        for (name, what) in [("ns", "Namespaces are"), ("partition", "Partitions are")] {
            if find(name).is_some_and(|value| !value.is_empty()) {
                return Err(ConsulError::Enterprise(name, what));
            }
        }
        for (header, name, what) in
            [(&NAMESPACE, "X-Consul-Namespace", "Namespaces are"), (&PARTITION, "X-Consul-Partition", "Partitions are")]
        {
            if head.headers.get(header).is_some_and(|value| !value.is_empty()) {
                return Err(ConsulError::EnterpriseHeader(name, what));
            }
        }
        if let Some(dc) = find("dc").filter(|dc| !dc.is_empty() && *dc != agent.datacenter) {
            tracing::debug!(dc, "a query for another datacenter");
            return Err(ConsulError::NoPathToDatacenter);
        }
        let flag = |name: &str| find(name).is_some();
        let consistency = match (flag("stale") || flag("max_stale"), flag("consistent")) {
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
        let wait = wait.map_or(Some(WAIT), go_duration).ok_or(ConsulError::BadRequest("Invalid wait time"))?;
        let wait = if wait.is_zero() { WAIT } else { wait.min(LONGEST_WAIT) };
        let (cached, pretty, gzip) = (flag("cached"), flag("pretty"), accepts_gzip(&head.headers));
        Ok(Self { pairs, index, wait, consistency, cached, pretty, gzip })
    }

    /// The first value of a parameter. Empty where it stands alone.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is set, as Go reads booleans; alone, it is.
    pub(super) fn switch(&self, name: &'static str) -> Result<bool, ConsulError> {
        match self.get(name) {
            Some("" | "1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
            None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
            Some(_) => Err(ConsulError::InvalidFlag(name)),
        }
    }

    /// Returns the parameters that decide what the answer contains, in one text. Each part has its length before it, so that no two
    /// queries have the same text, whatever is in their values.
    pub(super) fn question(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.pairs.iter().filter(|(key, _)| !HOW.contains(&key.as_str())) {
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

/// Text without percent signs. `plus`: it stands for a blank.
pub(super) fn decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let text = if plus && text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

//! Conditions under which calls take another split than the default one.

use std::time::Duration;

use super::{RetryPolicy, Split};

/// Route: the calls that it matches, and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRoute {
    /// Conditions on headers, all of which must hold, in the order of the names.
    pub headers: Vec<HeaderCondition>,
    /// Condition on the method. `None`: any method.
    pub method: Option<MethodMatch>,
    /// Split of the matching calls. `None`: they go to the whole service.
    pub split: Option<Split>,
    /// Maximum time of a matching call, instead of the policy's. Zero: the caller's deadline only.
    pub timeout: Option<Duration>,
    /// Retries of matching calls, instead of the policy's.
    pub retry: Option<RetryPolicy>,
    /// Header whose value is the key for ring hash. `None`: the channel is the key.
    pub hash_header: Option<Box<str>>,
}

impl PolicyRoute {
    /// Returns whether the route has no conditions, so that it matches every call.
    #[must_use]
    pub fn matches_all(&self) -> bool {
        self.headers.is_empty() && self.method.is_none()
    }
}

/// Condition on a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Name of the header, in lower case.
    pub name: Box<str>,
    /// Condition on its value.
    pub matches: HeaderMatch,
}

/// Condition on the value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderMatch {
    /// The value is this text.
    Exact(Box<str>),
    /// The header is present.
    Present,
    /// The header is absent.
    Absent,
    /// The whole value matches this regular expression.
    Regex(Box<str>),
}

/// Condition on the method of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MethodMatch {
    /// The path of the call: `/pay.v1.Payments/Charge`.
    Exact(Box<str>),
    /// The path of the service with slashes on both sides: `/pay.v1.Payments/`.
    Service(Box<str>),
}

//! Conditions under which calls take another split than the default one.

use std::time::Duration;

use super::{RetryPolicy, Split, header_pattern};

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

impl HeaderMatch {
    /// Returns whether a header with this value meets the condition. `None`: the call does not have the header.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exact(expected) => value == Some(&**expected),
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Regex(pattern) => value.is_some_and(|value| {
                // The pattern of a valid policy can be compiled.
                header_pattern::compile(pattern).is_ok_and(|regex| regex.is_match(value))
            }),
        }
    }
}

/// Condition on the method of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MethodMatch {
    /// The path of the call: `/pay.v1.Payments/Charge`.
    Exact(Box<str>),
    /// The path of the service with slashes on both sides: `/pay.v1.Payments/`.
    Service(Box<str>),
}

impl MethodMatch {
    /// Returns whether the method with this path meets the condition.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(expected) => path == &**expected,
            Self::Service(prefix) => path.starts_with(&**prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_meets_a_condition_on_its_whole_value() {
        let exact = HeaderMatch::Exact("true".into());
        let regex = HeaderMatch::Regex("v[0-9]+".into());
        for (condition, value, matches) in [
            (&exact, Some("true"), true),
            (&exact, Some("true, false"), false),
            (&exact, None, false),
            (&HeaderMatch::Present, Some(""), true),
            (&HeaderMatch::Present, None, false),
            (&HeaderMatch::Absent, None, true),
            (&HeaderMatch::Absent, Some("x"), false),
            (&regex, Some("v12"), true),
            (&regex, Some("v12-beta"), false),
            (&regex, Some("av12"), false),
            (&regex, None, false),
        ] {
            assert_eq!(condition.matches(value), matches, "{condition:?} {value:?}");
        }
    }

    #[test]
    fn method_meets_a_condition_on_its_path_or_its_service() {
        let exact = MethodMatch::Exact("/pay.v1.Payments/Charge".into());
        let service = MethodMatch::Service("/pay.v1.Payments/".into());
        for (path, is_exact, is_of_service) in [
            ("/pay.v1.Payments/Charge", true, true),
            ("/pay.v1.Payments/Refund", false, true),
            ("/pay.v1.PaymentsAdmin/Charge", false, false),
        ] {
            assert_eq!((exact.matches(path), service.matches(path)), (is_exact, is_of_service), "{path}");
        }
    }
}

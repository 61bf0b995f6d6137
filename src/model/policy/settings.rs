//! Fields that the policies of services and the defaults have, and their values.

use std::{collections::BTreeSet, fmt, time::Duration};

/// Value that a document writes as one of several names.
pub(super) trait PolicyName: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// Name of the value in documents.
    fn as_str(self) -> &'static str;
}

/// Gives the values of a type their names in documents.
macro_rules! policy_names {
    ($type:ident { $($value:ident = $name:literal),+ $(,)? }) => {
        impl $crate::model::policy::PolicyName for $type {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name),+
                }
            }
        }

        impl $type {
            /// Name of the value in documents of policies.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                $crate::model::policy::PolicyName::as_str(self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(super) use policy_names;

policy_names!(LoadBalancing {
    RoundRobin = "round_robin",
    LeastRequest = "least_request",
    RingHash = "ring_hash",
    Weighted = "weighted",
});
policy_names!(RetryableCode {
    Cancelled = "cancelled",
    DeadlineExceeded = "deadline-exceeded",
    Internal = "internal",
    ResourceExhausted = "resource-exhausted",
    Unavailable = "unavailable",
});
policy_names!(WeightSource { Configured = "configured", ResponseTime = "response_time" });
policy_names!(ZoneMode { Off = "off", Prefer = "prefer" });

/// Maximum delay before a retry.
pub(super) const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// Fields that the policies of services and the defaults have. Those that are `None` are open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Balancing of calls between instances. Open everywhere: round robin.
    pub lb: Option<LoadBalancing>,
    /// Maximum time of a call. Zero or open everywhere: the caller's deadline only.
    pub timeout: Option<Duration>,
    /// Maximum number of calls that a client process has open to a service or subset. 0 or open everywhere: unlimited.
    pub max_requests: Option<u32>,
    /// Retries of failed calls. Open everywhere: none.
    pub retry: Option<RetryPolicy>,
    /// Outlier detection. `Some(None)`: off, which is also the value if it is open everywhere.
    pub outlier: Option<Option<OutlierDetection>>,
    /// Source of the weights. Open everywhere: as configured.
    pub weights: Option<WeightSource>,
    /// Time in which the weight of a new instance rises to its full value. Zero or open everywhere: no slow start.
    pub slow_start: Option<Duration>,
    /// Preference for instances in the client's zone. Open everywhere: none.
    pub zone: Option<ZoneMode>,
    /// Percentage of calls that clients drop, 0 to 100. Open everywhere: 0.
    pub shed: Option<u8>,
}

/// Balancing of calls between instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancing {
    /// In turn, in proportion to the weights.
    #[default]
    RoundRobin,
    /// The instance with fewer open calls, of two random ones.
    LeastRequest,
    /// Calls with the same key go to the same instance.
    RingHash,
    /// In proportion to weights that each client computes from the load that instances report to it (ORCA).
    Weighted,
}

/// Retries of failed calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Number of further attempts, 0 to 4.
    pub attempts: u8,
    /// Status codes after which a call is retried. Not empty.
    pub on: BTreeSet<RetryableCode>,
    /// Delay before the first retry, which doubles with each further one: 1 ms to 60 s.
    pub backoff: Duration,
    /// Maximum delay: at least `backoff`, at most 60 s.
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// Retries of a document that says nothing but the number of attempts.
    #[must_use]
    pub fn new(attempts: u8) -> Self {
        let backoff = Duration::from_millis(25);
        let on = BTreeSet::from([RetryableCode::Unavailable]);
        Self { attempts, on, backoff, max_backoff: Self::default_max_backoff(backoff) }
    }

    /// Maximum delay of a document that leaves it open: ten times the first delay, at most 60 s.
    pub(super) fn default_max_backoff(backoff: Duration) -> Duration {
        (backoff * 10).min(MAX_BACKOFF)
    }
}

/// Status code after which gRPC clients can retry a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryableCode {
    /// `cancelled`
    Cancelled,
    /// `deadline-exceeded`
    DeadlineExceeded,
    /// `internal`
    Internal,
    /// `resource-exhausted`
    ResourceExhausted,
    /// `unavailable`
    Unavailable,
}

/// Detection of instances that fail more often than others; a client does not call them for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Percentage of failed calls in an interval above which an instance is ejected, 1 to 99.
    pub failure_percent: u8,
    /// Minimum number of instances with enough calls.
    pub hosts: u32,
    /// Minimum number of calls of an instance in an interval.
    pub calls: u32,
    /// Interval between two evaluations.
    pub interval: Duration,
    /// Time for which an instance is ejected, multiplied by the number of its ejections.
    pub eject: Duration,
    /// Maximum percentage of instances that are ejected at a time, 1 to 100.
    pub max_percent: u8,
}

/// Outlier detection of a document that turns it on and says nothing else.
impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            failure_percent: 50,
            hosts: 3,
            calls: 20,
            interval: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            max_percent: 30,
        }
    }
}

/// Source of the weights that clients get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WeightSource {
    /// Weights of the registrations.
    #[default]
    Configured,
    /// Weights of the registrations, corrected by the response times and errors in the load reports of the instances.
    ResponseTime,
}

/// Preference for instances in the client's zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ZoneMode {
    /// All instances alike.
    #[default]
    Off,
    /// Instances in the client's zone, as far as they have the capacity; then the same region, then others.
    Prefer,
}

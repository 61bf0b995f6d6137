//! Fields that the policies of services and the defaults have, and their values.

use std::{collections::BTreeSet, time::Duration};

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
    /// Status codes after which a call is retried. Not empty if `attempts` is above 0.
    pub on: BTreeSet<RetryableCode>,
    /// Delay before the first retry, which doubles with each further one: 1 ms to 60 s.
    pub backoff: Duration,
    /// Maximum delay: at least `backoff`, at most 60 s.
    pub max_backoff: Duration,
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
    /// Percentage of failed calls in an interval at which an instance is ejected, 1 to 100.
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

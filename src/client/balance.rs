//! Choice of the instance of a call: pure, without IO and clock.
//!
//! [`Picker`] chooses one of the instances that can be called. It is made anew when they, their weights or the policy change;
//! [`CallStats`], the measurements of an instance, outlives it.

mod call_stats;
mod peak_ewma;
mod picker;
mod random;
mod two_choices;
mod weighted;
mod zone;

#[cfg(test)]
mod tests;

pub(super) use call_stats::{CallOutcome, CallStats};
pub(super) use picker::{PickCandidate, Picker};
pub(super) use random::RandomSequence;
pub(super) use zone::{LocalCapacity, Proximity};

/// Method by which a channel chooses the instance of each call.
///
/// Weights are those of the registry: the configured ones, or the effective ones where the service's policy asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BalancingMethod {
    /// All instances in turn, without weights.
    RoundRobin,
    /// Instances in turn, in proportion to their weights, as evenly over time as possible: the next call goes to the instance
    /// whose turn has come first (earliest deadline first, as Envoy does it).
    WeightedRoundRobin,
    /// The instance with fewer calls in progress for its weight, of two random ones: the power of two choices. Instances
    /// are drawn in proportion to their weights.
    LeastRequest,
    /// The instance with the lower response time, of two random ones. The estimate is the peak EWMA of Finagle and of
    /// tower's `PeakEwma`, times the calls in progress. It rises at once with a slow response and falls within about ten
    /// seconds. Response time is the time until the response starts.
    PeakEwma,
}

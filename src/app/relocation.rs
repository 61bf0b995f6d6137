//! Times at which a replica that cannot reach its store ends streams, so that their clients go to a replica that can.
//!
//! If this replica alone is cut off, the other replicas remove the instances that it holds some time after its session has ended,
//! although heartbeats arrive here. If the store is away for all replicas, moving gains nothing, and clients may come back at once.
//! So the streams end in periods that double in length, each stream once in a period: an outage of an hour has ten periods.

use std::time::Duration;

/// Time from the moment at which the store counts as lost to the first period, and length of this period.
///
/// The store counts as lost four seconds after it last confirmed the session or the watch. The other replicas remove instances 25
/// seconds after the last confirmation of the session at the earliest. A stream ends with a heartbeat, so the first two periods, which
/// end at most 20 seconds after that confirmation, are in time for a TTL of 15 s.
const FIRST_PERIOD: Duration = Duration::from_secs(4);

/// Returns the time at which a stream ends that was opened at `opened`. Both are times since the store counts as lost; `opened` is zero
/// for a stream that was open already. `stream`: number of the stream, which spreads the ends over the period.
#[must_use]
pub fn stream_end(opened: Duration, stream: u64) -> Duration {
    let mut start = FIRST_PERIOD;
    while start <= opened {
        start *= 2;
    }
    // Multiplication by the golden ratio: successive numbers are far from each other, and fill the period evenly.
    let spread = u32::try_from(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(u32::MAX);
    start + start.mul_f64(f64::from(spread) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_evenly_over_the_first_period() {
        let mut ends: Vec<_> = (1_000..1_100).map(|stream| stream_end(Duration::ZERO, stream)).collect();
        ends.sort_unstable();
        assert!(ends[0] >= Duration::from_secs(4) && ends[99] <= Duration::from_secs(8), "{ends:?}");
        assert!(ends.windows(2).all(|pair| pair[1].abs_diff(pair[0]) < Duration::from_millis(120)), "{ends:?}");
    }

    #[test]
    fn stream_that_comes_back_ends_in_the_next_period() {
        for stream in 0..100 {
            let (mut opened, mut ends) = (Duration::ZERO, 0);
            while opened < Duration::from_hours(1) {
                let end = stream_end(opened, stream + ends);
                assert!(end > opened && end <= (2 * opened).max(FIRST_PERIOD) * 2, "{opened:?} to {end:?}");
                opened = end;
                ends += 1;
            }
            assert!(ends <= 11, "{ends} ends in an hour");
        }
    }
}

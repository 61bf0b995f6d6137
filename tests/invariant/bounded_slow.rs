//! `BoundedSlow`: a reader that stalls costs bounded memory, delays no other reader, and is disconnected within 30 s.

use crate::harness::Wall;

/// Maximum time until a stalled reader is disconnected, in milliseconds.
const MAX_STALL_MS: u64 = 30_000;
/// Maximum delay of a change to a reader that reads, in milliseconds.
const MAX_DELAY_MS: u64 = 1_000;

/// Measurements while some readers read nothing.
#[derive(Debug, Clone)]
pub struct Stall {
    /// Time from which they did not read what was sent.
    pub began: Wall,
    /// Time at which each of them was disconnected.
    pub cut_off: Vec<Option<Wall>>,
    /// Delay of each change to a reader that reads, in milliseconds.
    pub delays: Vec<u64>,
    /// Growth of the server, in KiB.
    pub grew: u64,
    /// Maximum growth, in KiB: less than if unread messages were kept for each reader.
    pub may_grow: u64,
    /// Milliseconds for which this machine stalled meanwhile.
    pub excused: u64,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Unbounded {
    #[error("reader {0} was never disconnected")]
    NotCutOff(usize),
    #[error("reader {reader} was disconnected after {after} ms")]
    CutOffLate { reader: usize, after: u64 },
    #[error("a change took {0} ms to a reader that reads")]
    OthersDelayed(u64),
    #[error("the server grew by {grew} KiB, more than {may_grow}")]
    Grew { grew: u64, may_grow: u64 },
}

/// Checks the measurements.
pub fn check(stall: &Stall) -> Result<(), Unbounded> {
    for (reader, cut_off) in stall.cut_off.iter().enumerate() {
        let after = cut_off.ok_or(Unbounded::NotCutOff(reader))?.saturating_sub(stall.began);
        if after > MAX_STALL_MS + stall.excused {
            return Err(Unbounded::CutOffLate { reader, after });
        }
    }
    let slowest = stall.delays.iter().copied().max().unwrap_or(0);
    if slowest > MAX_DELAY_MS + stall.excused {
        return Err(Unbounded::OthersDelayed(slowest));
    }
    if stall.grew > stall.may_grow {
        return Err(Unbounded::Grew { grew: stall.grew, may_grow: stall.may_grow });
    }
    Ok(())
}

mod tests {
    use super::*;

    fn good() -> Stall {
        let cut_off = vec![Some(38_000), Some(39_900)];
        Stall { began: 10_000, cut_off, delays: vec![1, 5, 900], grew: 500, may_grow: 1_000, excused: 0 }
    }

    #[test]
    fn stall_within_the_limits_passes() {
        assert_eq!(check(&good()), Ok(()));
        assert_eq!(check(&Stall { cut_off: vec![Some(40_500)], excused: 600, ..good() }), Ok(()));
    }

    #[test]
    fn each_violation_is_found() {
        let cases = [
            (Stall { cut_off: vec![Some(38_000), None], ..good() }, Unbounded::NotCutOff(1)),
            (Stall { cut_off: vec![Some(40_500)], ..good() }, Unbounded::CutOffLate { reader: 0, after: 30_500 }),
            (Stall { delays: vec![1, 1_500], ..good() }, Unbounded::OthersDelayed(1_500)),
            (Stall { grew: 1_001, ..good() }, Unbounded::Grew { grew: 1_001, may_grow: 1_000 }),
        ];
        for (stall, breach) in cases {
            assert_eq!(check(&stall), Err(breach));
        }
    }
}

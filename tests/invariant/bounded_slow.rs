//! `BoundedSlow`: a reader that stalls costs bounded memory, delays nobody, and is cut off within 30 s.

use crate::harness::Wall;

/// When a stalled reader must be gone, in milliseconds.
const CUT_OFF: u64 = 30_000;
/// A change that takes longer to reach a reader who reads was held up, in milliseconds.
const DELAYED: u64 = 1_000;

/// What happened while some readers took nothing.
#[derive(Debug, Clone)]
pub struct Stall {
    /// Since when there was something that they did not take.
    pub began: Wall,
    /// When each of them was cut off.
    pub cut_off: Vec<Option<Wall>>,
    /// How long each change took to a reader who reads, in milliseconds.
    pub delays: Vec<u64>,
    /// How much the server grew, in KiB.
    pub grew: u64,
    /// How much it may grow, in KiB: less than if what they did not take were kept for each of them.
    pub may_grow: u64,
    /// For how many milliseconds this machine stood still meanwhile.
    pub excused: u64,
}

/// How the promise is broken.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Unbounded {
    #[error("reader {0} was never cut off")]
    NotCutOff(usize),
    #[error("reader {reader} was cut off after {after} ms")]
    CutOffLate { reader: usize, after: u64 },
    #[error("a change took {0} ms to a reader who reads")]
    OthersDelayed(u64),
    #[error("the server grew by {grew} KiB, more than {may_grow}")]
    Grew { grew: u64, may_grow: u64 },
}

/// Checks what happened.
pub fn check(stall: &Stall) -> Result<(), Unbounded> {
    for (reader, cut_off) in stall.cut_off.iter().enumerate() {
        let after = cut_off.ok_or(Unbounded::NotCutOff(reader))?.saturating_sub(stall.began);
        if after > CUT_OFF + stall.excused {
            return Err(Unbounded::CutOffLate { reader, after });
        }
    }
    let slowest = stall.delays.iter().copied().max().unwrap_or(0);
    if slowest > DELAYED + stall.excused {
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
    fn a_stall_that_harms_nobody_passes() {
        assert_eq!(check(&good()), Ok(()));
        assert_eq!(check(&Stall { cut_off: vec![Some(40_500)], excused: 600, ..good() }), Ok(()));
    }

    #[test]
    fn each_breach_is_found() {
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

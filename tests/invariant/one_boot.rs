//! `OneBoot`: at most one boot holds an id at a time.

use crate::harness::{Key, Wall};

/// Maximum time for which a replica that has lost etcd does not know it, in milliseconds: its answers are of that time.
const MAX_UNKNOWN_MS: Wall = 4_000;

/// Time in which a boot held an id for sure: from the response to its registration to the last heartbeat that a replica with a connection
/// to etcd answered with HELD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    pub instance: Key,
    pub boot: String,
    pub from: Wall,
    pub to: Wall,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{first} and {second} both held {instance:?} from {from} to {to}")]
pub struct TwoBoots {
    instance: Key,
    first: String,
    second: String,
    from: Wall,
    to: Wall,
}

/// Checks all tenures. `stalled` milliseconds of an overlap are excused.
pub fn check(tenures: &[Tenure], stalled: impl Fn(Wall, Wall) -> u64) -> Result<(), TwoBoots> {
    for (index, first) in tenures.iter().enumerate() {
        for second in &tenures[index + 1..] {
            let (from, to) = (first.from.max(second.from), first.to.min(second.to));
            if first.instance == second.instance
                && first.boot != second.boot
                && to > from
                && to - from > MAX_UNKNOWN_MS + stalled(from, to)
            {
                let (instance, first, second) = (first.instance.clone(), first.boot.clone(), second.boot.clone());
                return Err(TwoBoots { instance, first, second, from, to });
            }
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::key;

    fn tenure(id: &str, boot: &str, from: Wall, to: Wall) -> Tenure {
        Tenure { instance: key("web", id), boot: boot.to_owned(), from, to }
    }

    #[test]
    fn tenures_one_after_the_other_pass() {
        let first = tenure("a", "left", 1_000, 9_000);
        let others = [first.clone(), tenure("a", "right", 9_500, 20_000), tenure("b", "right", 1_000, 9_000)];
        assert_eq!(check(&others, |_, _| 0), Ok(()));
        assert_eq!(check(&[first.clone(), tenure("a", "left", 2_000, 9_000)], |_, _| 0), Ok(()), "it is one boot");
        assert_eq!(check(&[first, tenure("a", "right", 5_500, 20_000)], |_, _| 0), Ok(()), "its replica did not know");
    }

    #[test]
    fn two_boots_at_a_time_are_found() {
        let both = [tenure("a", "left", 1_000, 9_000), tenure("a", "right", 4_000, 20_000)];
        let found = check(&both, |_, _| 0).unwrap_err();
        assert_eq!((found.from, found.to), (4_000, 9_000));
        assert_eq!(check(&both, |_, _| 1_000), Ok(()), "the machine stalled");
    }
}

//! Indexes of two registries: each counts from its own beginning, so what compares is which is higher.

use std::{cmp::Ordering, collections::HashMap};

use super::compare::Found;

/// An index from the future, as recorded.
const FUTURE: u64 = 999_999;
/// No registry comes here from where it is.
const FAR: u64 = 1 << 40;

/// One place in an answer: the index that was recorded there, and ours.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: String,
    pub recorded: u64,
    pub actual: u64,
}

/// Indexes that each endpoint has shown.
#[derive(Debug, Default)]
pub struct Indexes {
    seen: HashMap<String, Vec<Seen>>,
}

impl Indexes {
    /// Takes what an answer shows; tells what is in another order than it was.
    pub fn take(&mut self, endpoint: &str, shown: Vec<Seen>) -> Vec<Found> {
        let seen = self.seen.entry(endpoint.to_owned()).or_default();
        let mut found = Vec::new();
        for one in shown {
            let other = |before: &&Seen| one.recorded.cmp(&before.recorded) != one.actual.cmp(&before.actual);
            match seen.iter().find(other) {
                None => seen.push(one),
                Some(before) => found.push(Found {
                    expected: format!("{} as it was {}", relation(one.recorded, before.recorded), before.at),
                    got: relation(one.actual, before.actual),
                    at: one.at,
                }),
            }
        }
        found
    }
}

fn relation(one: u64, other: u64) -> String {
    let sign = match one.cmp(&other) {
        Ordering::Less => '<',
        Ordering::Equal => '=',
        Ordering::Greater => '>',
    };
    format!("{one} {sign} {other}")
}

/// Returns the index to ask for in place of a recorded one, when the current index here is `current`.
pub fn in_place_of(recorded: u64, current: u64) -> u64 {
    match recorded {
        // The lowest there is.
        1 => 1,
        FUTURE => current + FAR,
        _ => current,
    }
}

#[test]
fn order_of_indexes_is_kept() {
    let seen = |recorded, actual| Seen { at: "here".to_owned(), recorded, actual };
    let mut indexes = Indexes::default();
    assert!(indexes.take("/", vec![seen(5, 50), seen(7, 70), seen(5, 50)]).is_empty());
    for wrong in [seen(5, 51), seen(6, 50), seen(8, 70), seen(8, 60)] {
        assert_eq!(indexes.take("/", vec![wrong.clone()]).len(), 1, "{wrong:?}");
    }
    assert!(indexes.take("/another", vec![seen(8, 60)]).is_empty());
    assert_eq!([1, 37, FUTURE].map(|recorded| in_place_of(recorded, 9)), [1, 9, 9 + FAR]);
}

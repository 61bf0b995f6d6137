//! Number of answers that are equal, and what differs in the others.

use std::fmt;

use super::{compare::Found, differences::Difference};

/// Entries that are to be equal, and are not yet.
#[derive(Debug)]
pub struct NotYet {
    /// Numbers in the recording.
    pub exchanges: &'static [usize],
    /// The work that is to make them equal.
    pub until: &'static str,
}

/// Printed at the end.
#[derive(Debug)]
pub struct Report {
    equal: usize,
    with_reason: usize,
    without_reason: usize,
    not_yet: usize,
    /// For those who look for the cause.
    lines: Vec<String>,
    /// The same of entries that are not equal yet.
    later_lines: Vec<String>,
    /// Differences that are allowed, and true for those that were met.
    differences: Vec<(&'static Difference, bool)>,
    expected_later: &'static [NotYet],
    /// Entries that are equal, but were not expected to be.
    equal_already: Vec<usize>,
}

impl Report {
    pub fn new(differences: &'static [Difference], expected_later: &'static [NotYet]) -> Self {
        Self {
            equal: 0,
            with_reason: 0,
            without_reason: 0,
            not_yet: 0,
            lines: Vec::new(),
            later_lines: Vec::new(),
            differences: differences.iter().map(|difference| (difference, false)).collect(),
            expected_later,
            equal_already: Vec::new(),
        }
    }

    pub fn add(&mut self, number: usize, entry: &str, found: &[Found]) {
        let mut strange = Vec::new();
        for one in found {
            let mut reason = false;
            for (difference, met) in &mut self.differences {
                let covers = difference.covers(number, one);
                *met |= covers;
                reason |= covers;
            }
            if !reason {
                strange.push(one);
            }
        }
        let later = self.later(number);
        let count = match (found.is_empty(), strange.is_empty()) {
            (_, false) if later.is_some() => &mut self.not_yet,
            (true, _) => &mut self.equal,
            (false, true) => &mut self.with_reason,
            (false, false) => &mut self.without_reason,
        };
        *count += 1;
        if strange.is_empty() {
            self.equal_already.extend(later.map(|_| number));
            return;
        }
        let until = later.map(|later| format!(" [not yet: {}]", later.until)).unwrap_or_default();
        let lines = if later.is_some() { &mut self.later_lines } else { &mut self.lines };
        lines.push(format!("#{number} {entry}{until}"));
        for one in strange {
            lines.push(format!("  {}\n    expected {}\n    got      {}", one.at, one.expected, one.got));
        }
    }

    /// All answers are as they should be, and no reason is there for nothing.
    pub fn is_good(&self) -> bool {
        self.without_reason == 0 && self.unmet().next().is_none() && self.equal_already.is_empty()
    }

    fn later(&self, number: usize) -> Option<&'static NotYet> {
        self.expected_later.iter().find(|later| later.exchanges.contains(&number))
    }

    /// Differences that nothing differs by. Those of entries that are not equal yet may still be met.
    fn unmet(&self) -> impl Iterator<Item = &'static Difference> {
        let open = |difference: &Difference| {
            let exchanges = difference.exchanges;
            !exchanges.is_empty() && exchanges.iter().all(|number| self.later(*number).is_some())
        };
        let unmet = self.differences.iter().filter(move |(difference, met)| !met && !open(difference));
        unmet.map(|(difference, _)| *difference)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.later_lines.iter().chain(&self.lines) {
            writeln!(f, "{line}")?;
        }
        for difference in self.unmet() {
            writeln!(f, "nothing differs any more at {}, which {}", difference.place(), difference.why)?;
        }
        for number in &self.equal_already {
            writeln!(f, "#{number} is as it should be: remove it from NOT_YET")?;
        }
        write!(
            f,
            "{} equal, {} differing with reason, {} differing without reason, {} not yet",
            self.equal, self.with_reason, self.without_reason, self.not_yet
        )
    }
}

#[test]
fn an_entry_that_is_equal_before_it_is_expected_fails_the_report() {
    const LATER: &[NotYet] = &[NotYet { exchanges: &[1], until: "never" }];
    let differs = [Found { at: "status".to_owned(), expected: "200".to_owned(), got: "500".to_owned() }];
    let report = |number, found: &[Found]| {
        let mut report = Report::new(&[], LATER);
        report.add(number, "GET /", found);
        report.is_good()
    };
    assert!(report(0, &[]) && report(1, &differs));
    assert!(!report(0, &differs) && !report(1, &[]));
}

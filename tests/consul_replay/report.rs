//! Number of answers that are equal, and what differs in the others.

use std::fmt;

use super::{compare::Found, differences::Difference};

/// Printed at the end.
#[derive(Debug)]
pub struct Report {
    equal: usize,
    with_reason: usize,
    without_reason: usize,
    /// Details for finding the cause.
    lines: Vec<String>,
    /// Differences that are allowed, and true for those that were met.
    differences: Vec<(&'static Difference, bool)>,
}

impl Report {
    pub fn new(differences: &'static [Difference]) -> Self {
        let differences = differences.iter().map(|difference| (difference, false)).collect();
        Self { equal: 0, with_reason: 0, without_reason: 0, lines: Vec::new(), differences }
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
        let count = match (found.is_empty(), strange.is_empty()) {
            (true, _) => &mut self.equal,
            (false, true) => &mut self.with_reason,
            (false, false) => &mut self.without_reason,
        };
        *count += 1;
        if !strange.is_empty() {
            self.lines.push(format!("#{number} {entry}"));
        }
        for one in strange {
            self.lines.push(format!("  {}\n    expected {}\n    got      {}", one.at, one.expected, one.got));
        }
    }

    /// Returns true if all answers are as they should be, and no reason is there for nothing.
    pub fn is_good(&self) -> bool {
        self.without_reason == 0 && self.unmet().next().is_none()
    }

    /// Differences that nothing differs by.
    fn unmet(&self) -> impl Iterator<Item = &'static Difference> {
        self.differences.iter().filter(|(_, met)| !met).map(|(difference, _)| *difference)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        for difference in self.unmet() {
            writeln!(f, "nothing differs any more at {}, which {}", difference.place(), difference.why)?;
        }
        write!(
            f,
            "{} equal, {} differing with reason, {} differing without reason",
            self.equal, self.with_reason, self.without_reason
        )
    }
}

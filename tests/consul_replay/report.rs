//! How many answers are equal, and what differs in the others.

use std::fmt;

use super::{
    compare::Found,
    differences::{DIFFERENCES, Difference},
    recording::Exchange,
};

/// Printed at the end.
#[derive(Debug, Default)]
pub struct Report {
    equal: usize,
    with_reason: usize,
    without_reason: usize,
    /// For whoever has to find out why.
    lines: Vec<String>,
    /// Of the differences that are allowed, those that were met.
    met: [bool; DIFFERENCES.len()],
}

impl Report {
    pub fn add(&mut self, number: usize, exchange: &Exchange, found: &[Found]) {
        let mut strange = Vec::new();
        for one in found {
            let mut reason = false;
            for (difference, met) in DIFFERENCES.iter().zip(&mut self.met) {
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
            let request = &exchange.request;
            let note = if exchange.note.is_empty() { String::new() } else { format!(" ({})", exchange.note) };
            self.lines.push(format!("#{number} {} {} {}{note}", request.method, request.path, request.text()));
        }
        for one in strange {
            self.lines.push(format!("  {}\n    expected {}\n    got      {}", one.at, one.expected, one.got));
        }
    }

    /// All answers are as they should be, and no reason is there for nothing.
    pub fn is_good(&self) -> bool {
        self.without_reason == 0 && self.unmet().next().is_none()
    }

    fn unmet(&self) -> impl Iterator<Item = &'static Difference> {
        DIFFERENCES.iter().zip(self.met).filter(|(_, met)| !met).map(|(difference, _)| difference)
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

//! Text for terminals: escaping, colours, and lines on standard error.

use std::{borrow::Cow, collections::VecDeque, fmt::Write as _, io::Write};

use anstyle::{AnsiColor, Style};

/// Prints one line to standard error. A failure is ignored: there is no other place to report it.
pub(crate) fn print_stderr(line: &str) {
    let _ignored = writeln!(anstream::stderr(), "{line}");
}

/// Number of errors that [`ErrorPrinter`] remembers: more than a command has servers.
const MAX_REMEMBERED_ERRORS: usize = 32;

/// Printer of the errors of a command that tries again. An outage of hours is one line for each server, not one for each attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct ErrorPrinter {
    printed: VecDeque<String>,
}

impl ErrorPrinter {
    /// Prints an error to standard error, unless it was printed since the last success.
    pub(crate) fn print(&mut self, message: String) {
        if self.printed.contains(&message) {
            return;
        }
        print_stderr(&escape(&message));
        self.printed.push_back(message);
        if self.printed.len() > MAX_REMEMBERED_ERRORS {
            self.printed.pop_front();
        }
    }

    /// Returns the errors that are not printed again.
    #[cfg(test)]
    pub(crate) fn printed(&self) -> &VecDeque<String> {
        &self.printed
    }

    /// Takes note of a success, after which errors are printed again.
    pub(crate) fn clear(&mut self) {
        self.printed.clear();
    }
}

/// Escapes the characters that could control a terminal: control characters, and marks that reorder text.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let dangerous = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if dangerous(letter) {
            let _infallible = write!(safe, "{}", letter.escape_default());
        } else {
            safe.push(letter);
        }
    }
    Cow::Owned(safe)
}

/// Returns the colour of a status: green for good, yellow for degraded, red for bad.
pub(crate) fn style(status: &str) -> Style {
    let colour = match status {
        "SERVING" | "PASSING" => AnsiColor::Green,
        "SUSPECT" | "STARTING" | "DRAINING" | "WARNING" => AnsiColor::Yellow,
        "UNHEALTHY" | "NOT_SERVING" | "CRITICAL" => AnsiColor::Red,
        _ => return Style::new(),
    };
    Style::new().fg_color(Some(colour.into()))
}

/// Returns a status with its colour. anstream removes the colour where the output is not a terminal.
pub(crate) fn coloured(status: &str) -> String {
    let style = style(status);
    format!("{style}{status}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_of_harmless_text_borrows_it() {
        assert!(matches!(escape("Zürich ✓"), Cow::Borrowed("Zürich ✓")));
    }
}

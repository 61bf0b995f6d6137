//! Text for terminals: escaping, colours, and lines on standard error.

use std::{borrow::Cow, fmt::Write as _, io::Write};

use anstyle::{AnsiColor, Style};

/// Prints one line to standard error. A failure is ignored: there is no other place to report it.
pub(crate) fn print_stderr(line: &str) {
    let _ignored = writeln!(anstream::stderr(), "{line}");
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

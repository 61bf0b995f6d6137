//! Tests of the log lines as written.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::{debug, info, info_span};

use super::{LogFilter, ResolvedFormat, subscriber};

/// Writer that stands for standard error in a test.
#[derive(Clone, Default)]
struct CapturedStderr(Arc<Mutex<Vec<u8>>>);

impl io::Write for CapturedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns what `log` writes with this filter, format and colour.
fn written(filter: &str, format: ResolvedFormat, colour: bool, log: impl FnOnce()) -> String {
    let lines = CapturedStderr::default();
    let writer = lines.clone();
    let subscriber = subscriber(&filter.parse().unwrap(), format, colour, move || writer.clone());
    tracing::subscriber::with_default(subscriber, log);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Text of a hostile client: a forged line, and control sequences of terminals.
const HOSTILE: &str = "web\nFAKE line\r\u{1b}[31m\u{7}\u{9b}2J\0";

fn log_hostile_text() {
    let _span = info_span!("call", peer = %HOSTILE).entered();
    info!(displayed = %HOSTILE, debugged = ?HOSTILE, text = HOSTILE, "registered {HOSTILE}");
}

#[test]
fn line_has_no_control_characters_but_its_end() {
    let line = written("info", ResolvedFormat::Lines, false, log_hostile_text);
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains(char::is_control), "{line:?}");
    for part in [
        "registered web\\nFAKE",
        "displayed=web\\nFAKE",
        "debugged=\"web\\nFAKE",
        "text=\"web\\nFAKE",
        "peer=web\\nFAKE",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn json_event_is_one_line() {
    let line = written("info", ResolvedFormat::Json, false, log_hostile_text);
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    assert!(!line.trim_end().contains(|letter: char| letter.is_ascii_control()), "{line:?}");
    assert!(line.contains(r#""level":"INFO""#) && line.contains(r#""displayed":"web\nFAKE"#), "{line}");
}

#[test]
fn line_without_colour_has_no_escape_sequences() {
    let coloured = written("info", ResolvedFormat::Lines, true, || info!(id = 1, "hello"));
    let plain = written("info", ResolvedFormat::Lines, false, || info!(id = 1, "hello"));
    assert!(coloured.contains('\u{1b}'), "{coloured:?}");
    assert!(plain.ends_with("hello id=1\n") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn filter_selects_lines_by_target_and_level() {
    let log = || {
        debug!(target: "callboard::registry", "quiet");
        debug!(target: "callboard::protocol::grpc", "loud");
    };
    let lines = written("info,callboard::protocol::grpc=debug", ResolvedFormat::Lines, false, log);
    assert!(lines.contains("loud") && !lines.contains("quiet"), "{lines}");
}

#[test]
fn invalid_filter_is_rejected() {
    for invalid in ["inof", "info,debgu", "callboard=loud", "info,[call{peer}]=trace", ""] {
        let parsed = invalid.parse::<LogFilter>();
        assert!(parsed.is_err(), "{invalid:?} was accepted");
    }
    for valid in ["info", "OFF", "warn,callboard=debug", "callboard::registry"] {
        let parsed = valid.parse::<LogFilter>();
        assert!(parsed.is_ok(), "{valid:?} was rejected: {parsed:?}");
    }
}

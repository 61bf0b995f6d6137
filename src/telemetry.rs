//! Logging: filter and format of log lines, which go to standard error.
//!
//! On a terminal a line is for people, elsewhere it is a JSON object. Log lines may contain text that a client sent, so
//! control characters are escaped: they can neither forge a second line nor control a terminal.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::Registry;

#[cfg(test)]
mod tests;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty if standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people; in colour on a terminal, unless `NO_COLOR` is set.
    Pretty,
    /// One JSON object on each line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// Filter of log lines, in the syntax of [`Targets`]: `info,callboard::registry=debug`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter(Targets);

// `Targets` compares levels and names only.
impl Eq for LogFilter {}

/// Error of a log filter that does not parse.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// A directive is malformed.
    #[error("{0}")]
    Syntax(#[from] ParseError),
    /// A target is not the path of a module.
    #[error("{0:?} is not the path of a module")]
    InvalidTarget(String),
    /// A word without a target is not a level.
    #[error("{0:?} is not a log level")]
    UnknownLevel(String),
}

impl Default for LogFilter {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        for directive in text.split(',').map(str::trim) {
            let target = directive.split_once('=').map_or(directive, |(target, _)| target);
            // `Targets` takes a single word for a target, so a misspelt level would hide every line.
            let is_level = || directive.parse::<LevelFilter>().is_ok();
            if directive.is_empty() || !directive.contains(['=', ':']) && !is_level() {
                return Err(LogFilterError::UnknownLevel(directive.to_owned()));
            }
            if target.contains(|letter: char| !letter.is_alphanumeric() && !"_:-.".contains(letter)) {
                return Err(LogFilterError::InvalidTarget(target.to_owned()));
            }
        }
        Ok(Self(text.parse()?))
    }
}

/// Installs the logger of this process, which writes to standard error.
///
/// # Errors
///
/// If a logger is installed already.
pub fn init(filter: &LogFilter, format: LogFormat) -> Result<(), SetGlobalDefaultError> {
    let terminal = io::stderr().is_terminal();
    let resolved = match format {
        LogFormat::Pretty => ResolvedFormat::Lines,
        LogFormat::Auto if terminal => ResolvedFormat::Lines,
        LogFormat::Auto | LogFormat::Json => ResolvedFormat::Json,
    };
    let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing::subscriber::set_global_default(subscriber(filter, resolved, colour, io::stderr))
}

/// [`LogFormat`] without `Auto`.
#[derive(Clone, Copy)]
enum ResolvedFormat {
    Lines,
    Json,
}

fn subscriber<W>(filter: &LogFilter, format: ResolvedFormat, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer::<Registry>().with_writer(writer);
    let layer = match format {
        ResolvedFormat::Lines => layer.compact().with_ansi(colour).fmt_fields(fields()).boxed(),
        ResolvedFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter.0.clone()))
}

/// Returns a formatter of the message and of `name=value` pairs that escapes control characters. The formatter of
/// `tracing_subscriber` passes line breaks on.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(|out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(out, "{}=", field.name())?;
        }
        write!(Escaped(out), "{value:?}")
    })
    .delimited(" ")
}

/// Writer that escapes control characters as Rust does: `\n`, `\u{1b}`.
struct Escaped<'out, W>(&'out mut W);

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if letter.is_control() {
                write!(self.0, "{}", letter.escape_default())?;
            } else {
                self.0.write_char(letter)?;
            }
        }
        Ok(())
    }
}

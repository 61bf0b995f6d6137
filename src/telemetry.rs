//! Log lines: which are written, and how they look. Always to standard error; standard output is for data.
//!
//! On a terminal a line is for people, elsewhere it is a JSON object. What a client sent may end up in a log line, so
//! control characters in it are escaped: nobody forges a second line, or talks to the terminal of whoever reads.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::Registry;

#[cfg(test)]
mod tests;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty where standard error is a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// A line for people; in colour on a terminal, unless `NO_COLOR` is set.
    Pretty,
    /// One JSON object a line.
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

/// Which log lines are written, in the language of [`EnvFilter`]: `info,callboard::registry=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

/// A filter that does not mean anything. Displayed as what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The filter language does not have it.
    #[error("{0}")]
    Syntax(#[from] tracing_subscriber::filter::ParseError),
    /// A word alone that is no level.
    #[error("{0:?} is no level")]
    NoLevel(String),
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        // To the filter language a word alone is a target, so a misspelt level would be taken and hide every line.
        let alone = text.split(',').map(str::trim).filter(|directive| !directive.contains(['=', ':', '[']));
        for directive in alone {
            if directive.is_empty() || directive.parse::<LevelFilter>().is_err() {
                return Err(LogFilterError::NoLevel(directive.to_owned()));
            }
        }
        EnvFilter::try_new(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// Writes this process's log lines to standard error from now on.
///
/// # Errors
///
/// Somebody in this process has done so before.
pub fn init(filter: &LogFilter, format: LogFormat) -> Result<(), SetGlobalDefaultError> {
    let terminal = io::stderr().is_terminal();
    let look = match format {
        LogFormat::Pretty => ResolvedFormat::Lines,
        LogFormat::Auto if terminal => ResolvedFormat::Lines,
        LogFormat::Auto | LogFormat::Json => ResolvedFormat::Json,
    };
    let colour = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing::subscriber::set_global_default(subscriber(filter, look, colour, io::stderr))
}

/// [`LogFormat`] once it is known where the lines go.
#[derive(Clone, Copy)]
enum ResolvedFormat {
    Lines,
    Json,
}

fn subscriber<W>(filter: &LogFilter, look: ResolvedFormat, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer::<Registry>().with_writer(writer);
    let layer = match look {
        ResolvedFormat::Lines => layer.compact().with_ansi(colour).fmt_fields(fields()).boxed(),
        ResolvedFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // Lossy is exact here: a `LogFilter` has been parsed before.
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    tracing_subscriber::registry().with(layer).with(filter)
}

/// The message and `name=value`s, with control characters escaped. The formatter that comes with the crate lets line
/// breaks through.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(|out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        if field.name() != "message" {
            write!(out, "{}=", field.name())?;
        }
        write!(Escaped(out), "{value:?}")
    })
    .delimited(" ")
}

/// Passes text on with its control characters as Rust writes them: `\n`, `\u{1b}`.
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

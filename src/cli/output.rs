//! Printing: tables for people, JSON, YAML and bare names for programs.

mod table;

use std::{borrow::Cow, fmt::Write as _, io::Write};

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::error::CliError;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One array for a listing, one object a line for a stream
    Json,
    /// One sequence for a listing, documents for a stream
    Yaml,
    /// Names only, one a line
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: OutputFormat,
}

/// Something that every format can show.
pub(crate) trait Printable: Serialize {
    /// The columns of a table, and those that only a wide one has.
    const COLUMNS: (&'static [&'static str], &'static [&'static str]);

    /// What stands under the columns, the wide ones included.
    fn cells(&self) -> Vec<String>;

    /// What identifies it.
    fn name(&self) -> String;
}

/// Prints a listing to stdout. An empty table is replaced by a remark on stderr.
pub(crate) fn list<T: Printable>(format: OutputFormat, items: &[T], empty: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    match format {
        OutputFormat::Table | OutputFormat::Wide if items.is_empty() => complain(empty),
        OutputFormat::Table | OutputFormat::Wide => table::write(&mut out, items, format == OutputFormat::Wide)?,
        OutputFormat::Json => writeln!(out, "{}", json(items, true)?)?,
        OutputFormat::Yaml => write!(out, "{}", yaml(items)?)?,
        OutputFormat::Name => items.iter().try_for_each(|item| writeln!(out, "{}", escape(&item.name())))?,
    }
    Ok(out.flush()?)
}

/// Prints one thing, as an element of a stream. `line` is what a table has.
pub(crate) fn one<T: Serialize>(
    format: OutputFormat,
    item: &T,
    name: Option<&str>,
    line: Option<&str>,
) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    write_one(&mut out, format, item, name, line)?;
    Ok(out.flush()?)
}

fn write_one<T: Serialize>(
    out: &mut impl Write,
    format: OutputFormat,
    item: &T,
    name: Option<&str>,
    line: Option<&str>,
) -> Result<(), CliError> {
    match format {
        OutputFormat::Table | OutputFormat::Wide => line.iter().try_for_each(|line| writeln!(out, "{line}"))?,
        OutputFormat::Json => writeln!(out, "{}", json(item, false)?)?,
        OutputFormat::Yaml => write!(out, "---\n{}", yaml(item)?)?,
        OutputFormat::Name => name.iter().try_for_each(|name| writeln!(out, "{}", escape(name)))?,
    }
    Ok(())
}

/// One line on stderr. Nobody is left to be told when that fails.
pub(crate) fn complain(line: &str) {
    let _unheard = writeln!(anstream::stderr(), "{line}");
}

/// A thing as JSON, on one line or several.
pub(crate) fn json<T: Serialize + ?Sized>(item: &T, pretty: bool) -> Result<String, CliError> {
    let text = if pretty { serde_json::to_string_pretty(item) } else { serde_json::to_string(item) };
    Ok(text.map_err(anyhow::Error::from)?)
}

fn yaml<T: Serialize + ?Sized>(item: &T) -> Result<String, CliError> {
    Ok(serde_yaml_ng::to_string(item).map_err(anyhow::Error::from)?)
}

/// The text with whatever could command a terminal made visible: control characters, and conditions that reorder text.
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

/// How a status looks on a terminal.
pub(crate) fn style(status: &str) -> Style {
    let colour = match status {
        "SERVING" | "PASSING" => AnsiColor::Green,
        "SUSPECT" | "STARTING" | "DRAINING" | "WARNING" => AnsiColor::Yellow,
        "UNHEALTHY" | "NOT_SERVING" | "CRITICAL" => AnsiColor::Red,
        _ => return Style::new(),
    };
    Style::new().fg_color(Some(colour.into()))
}

/// A status in its colour; plain where stdout is not a terminal, for anstream takes the colour away.
pub(crate) fn coloured(status: &str) -> String {
    let style = style(status);
    format!("{style}{status}{style:#}")
}

#[cfg(test)]
mod tests;

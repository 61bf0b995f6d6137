//! Output formats: tables for people; JSON, YAML and names for programs.

mod table;

use std::io::Write;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    error::CliError,
    terminal::{escape, print_stderr},
};

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Table for people
    Table,
    /// Table with more columns
    Wide,
    /// One array for a list; one object on each line for a stream
    Json,
    /// One sequence for a list; one document for each item of a stream
    Yaml,
    /// Names only, one on each line
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: OutputFormat,
}

/// Item that every format can show.
pub(crate) trait Printable: Serialize {
    /// Columns of a table, and those that only a wide table has.
    const COLUMNS: (&'static [&'static str], &'static [&'static str]);

    /// Returns the columns. An item that wraps another one adds to them.
    fn columns() -> (Vec<&'static str>, &'static [&'static str]) {
        (Self::COLUMNS.0.to_vec(), Self::COLUMNS.1)
    }

    /// Returns the cells of all columns, including those of a wide table.
    fn cells(&self) -> Vec<String>;

    /// Returns the name that identifies the item.
    fn name(&self) -> String;
}

/// Prints a list to standard output. For an empty table, prints `empty` to standard error instead.
pub(crate) fn list<T: Printable>(format: OutputFormat, items: &[T], empty: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    match format {
        OutputFormat::Table | OutputFormat::Wide if items.is_empty() => print_stderr(empty),
        OutputFormat::Table | OutputFormat::Wide => table::write(&mut out, items, format == OutputFormat::Wide)?,
        OutputFormat::Json => writeln!(out, "{}", json(items, true)?)?,
        OutputFormat::Yaml => write!(out, "{}", yaml(items)?)?,
        OutputFormat::Name => items.iter().try_for_each(|item| writeln!(out, "{}", escape(&item.name())))?,
    }
    Ok(out.flush()?)
}

/// Prints one item of a stream. `name` is its name, `line` its line in the table format.
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

/// Encodes an item as JSON, on one line or, if `pretty`, on several.
pub(crate) fn json<T: Serialize + ?Sized>(item: &T, pretty: bool) -> Result<String, CliError> {
    let text = if pretty { serde_json::to_string_pretty(item) } else { serde_json::to_string(item) };
    Ok(text.map_err(anyhow::Error::from)?)
}

/// Encodes an item as YAML.
pub(crate) fn yaml<T: Serialize + ?Sized>(item: &T) -> Result<String, CliError> {
    Ok(serde_yaml_ng::to_string(item).map_err(anyhow::Error::from)?)
}

#[cfg(test)]
mod tests;

//! Reference pages of the documentation, generated from the code.
//!
//! `tests/reference.rs` compares them with `docs/src/reference/`.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use crate::{
    cli, config,
    metrics::{Label, Metrics},
    pb::error_reason::ErrorReason,
    protocol::consul::error_status,
};

/// Returns the name and the Markdown text of every page.
#[must_use]
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("flags.md", flags()),
        ("configuration.md", configuration()),
        ("metrics.md", metrics()),
        ("errors.md", errors()),
        ("exit-codes.md", exit_codes()),
    ]
}

/// Page in Markdown.
struct Page(String);

impl Page {
    fn new(title: &str, introduction: &str) -> Self {
        let notice = "<!-- Generated from the code: CALLBOARD_WRITE_REFERENCE=1 cargo test --test main reference -->";
        Self(format!("# {title}\n\n{notice}\n\n{introduction}\n"))
    }

    fn paragraph(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    /// Adds a table. Bars in cells are escaped.
    fn table<const N: usize>(&mut self, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        self.line("");
        self.line(&format!("| {} |", header.join(" | ")));
        self.line(&format!("|{}", "---|".repeat(N)));
        for row in rows {
            self.line(&format!("| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
    }

    fn line(&mut self, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{text}");
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// Returns a sentence with a full stop.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn flags() -> String {
    let mut page = Page::new(
        "Commands and flags",
        "`callboard COMMAND --help` prints the same. The settings of `callboard serve` can also be set in the environment and \
         in a file: see [Configuration](configuration.md).",
    );
    let command = cli::command();
    for subcommand in command.get_subcommands() {
        add_command(&mut page, "callboard", subcommand);
    }
    page.0
}

/// Adds a command, its flags and its subcommands.
fn add_command(page: &mut Page, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    page.paragraph(&format!("## {name}"));
    page.paragraph(&sentence(&command.get_about().map(ToString::to_string).unwrap_or_default()));
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(|arg| !arg.is_hide_set()).partition(|arg| arg.is_positional());
    if !positional.is_empty() {
        page.table(["argument", "meaning"], positional.into_iter().map(|arg| [code(&usage(arg)), help(arg).text]));
    }
    if !options.is_empty() {
        let row = |arg: &Arg| {
            let Help { text, default, variable } = help(arg);
            [code(&usage(arg)), code_of_default(&default), code(&variable), text]
        };
        page.table(["flag", "default", "environment", "meaning"], options.into_iter().map(row));
    }
    if let Some(note) = command.get_after_help() {
        page.paragraph(&sentence(&note.to_string().split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    for subcommand in command.get_subcommands() {
        add_command(page, &name, subcommand);
    }
}

/// Help text of an argument in its parts.
struct Help {
    text: String,
    default: String,
    variable: String,
}

/// Splits a help text into the text, the default and the environment variable, which clap or the text itself names.
fn help(arg: &Arg) -> Help {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut take = |marker: &str| {
        let (start, rest) = text.split_once(marker)?;
        let value = rest.trim_end_matches(']').to_owned();
        text = start.into();
        Some(value)
    };
    let variable = take(" [env: ").or_else(|| arg.get_env().map(|name| name.to_string_lossy().into_owned()));
    let default = take(" [default: ").or_else(|| {
        let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let is_flag = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::Count);
        (!is_flag && !values.is_empty()).then(|| values.join(","))
    });
    let possible: Vec<_> = arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let mut text = sentence(&text);
    if takes_value && !possible.is_empty() {
        let _ = write!(text, " One of {}.", possible.join(", "));
    }
    Help { text, default: default.unwrap_or_default(), variable: variable.unwrap_or_default() }
}

/// Returns a default as code if it is a value, or as text if it is a phrase.
fn code_of_default(default: &str) -> String {
    if default == "none" || default.contains(' ') { default.to_owned() } else { code(default) }
}

/// Returns the flag or the position of an argument, with the name of its value.
fn usage(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value = value.unwrap_or_else(|| arg.get_id().to_string().to_uppercase());
    if arg.is_positional() {
        return if arg.is_required_set() { value } else { format!("[{value}]") };
    }
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if takes_value { format!("{names} {value}") } else { names }
}

fn configuration() -> String {
    let mut page = Page::new(
        "Configuration",
        "Settings of `callboard serve`. A flag wins over the environment, the environment over the file of `--config`, the file \
         over the default. The file is TOML, one line `key = value` for each setting, with text in quotes.",
    );
    let settings = config::descriptions();
    let rows = settings.iter().map(|setting| {
        let key = setting.key.map(code).unwrap_or_default();
        [key, code(&setting.flag), code(&setting.variable), code_of_default(&setting.default)]
    });
    page.table(["key", "flag", "environment", "default"], rows);
    page.paragraph("## Meaning and values");
    let rows = settings.iter().filter_map(|setting| {
        let values = setting.values.clone().unwrap_or_default();
        Some([code(setting.key?), sentence(&setting.help), values])
    });
    page.table(["key", "meaning", "valid values"], rows);
    page.0
}

fn metrics() -> String {
    let mut page = Page::new(
        "Metrics",
        "`GET /metrics` on the HTTP listener returns all metrics in the text format of OpenMetrics. Histograms are in seconds, \
         with buckets from 100 µs to 10 s.",
    );
    let label = |label: &Label| match label.values.as_slice() {
        [] => code(label.name),
        values => {
            format!("{}: {}", code(label.name), values.iter().map(|value| code(value)).collect::<Vec<_>>().join(", "))
        }
    };
    let rows = Metrics::new().descriptions().into_iter().map(|metric| {
        let labels = metric.labels.iter().map(label).collect::<Vec<_>>().join("; ");
        [code(&metric.name), metric.kind.name().to_owned(), labels, sentence(metric.help)]
    });
    page.table(["name", "type", "labels", "meaning"], rows);
    page.0
}

fn errors() -> String {
    let mut page = Page::new("Errors", "Errors of gRPC and of HTTP.");
    page.paragraph("## gRPC");
    page.paragraph(
        "Every error carries `google.rpc.ErrorInfo` with the domain `callboard.dev` and one of these reasons. `BadRequest`, \
         `RetryInfo` and `ResourceInfo` are added where they apply.",
    );
    let rows = ErrorReason::ALL.iter().map(|reason| {
        [code(reason.name()), code(&upper_snake_case(&format!("{:?}", reason.code()))), reason.description().to_owned()]
    });
    page.table(["reason", "status code", "meaning"], rows);
    page.paragraph("## HTTP");
    page.paragraph("The body of an error is one line of text, the text of Consul where Consul has the same error.");
    let rows =
        error_status::STATUSES.iter().map(|(status, meaning)| [code(&status.to_string()), (*meaning).to_owned()]);
    page.table(["status", "meaning"], rows);
    page.0
}

/// Converts `InvalidArgument` to `INVALID_ARGUMENT`.
fn upper_snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_uppercase());
    }
    snake
}

fn exit_codes() -> String {
    let mut page = Page::new("Exit codes", "Exit codes of `callboard`.");
    let rows = cli::error::EXIT_CODES
        .map(|(exit_code, name, meaning)| [code(&exit_code.to_string()), name.to_owned(), meaning.to_owned()]);
    page.table(["code", "name", "meaning"], rows);
    page.paragraph(
        "`callboard run` exits with the code of the program that it runs, or with 128 plus the number of the signal that killed \
         the program. Before the program runs, it has these codes as well:",
    );
    let rows =
        cli::error::RUN_EXIT_CODES.map(|(exit_code, meaning)| [code(&exit_code.to_string()), meaning.to_owned()]);
    page.table(["code", "meaning"], rows);
    page.0
}

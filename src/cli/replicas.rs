//! Answers of several replicas to the same question.

use std::{collections::BTreeSet, process::ExitCode};

use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerClient, ServerConnection, is_answer},
    error::{CliError, call_exit_code},
    output::{self, OutputFormat, Printable},
    terminal::{escape, print_stderr},
};
use crate::client::ClientError;

/// Answers of the replicas that answered, and the errors of the others.
#[derive(Debug)]
pub(super) struct ReplicaAnswers<T> {
    /// Name of each replica, and its answer, in the order of --server.
    pub(super) answers: Vec<(String, T)>,
    /// Address of each server that did not answer, and its error.
    missing: Vec<(String, ClientError)>,
}

/// Item of a list, and the replica that it comes from.
#[derive(Debug, Serialize)]
pub(super) struct ReplicaItem<T> {
    pub(super) replica: String,
    #[serde(flatten)]
    pub(super) item: T,
}

impl<T: Printable> Printable for ReplicaItem<T> {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = T::COLUMNS;

    fn columns() -> (Vec<&'static str>, &'static [&'static str]) {
        let (narrow, more) = T::columns();
        (["REPLICA"].into_iter().chain(narrow).collect(), more)
    }

    fn cells(&self) -> Vec<String> {
        [self.replica.clone()].into_iter().chain(self.item.cells()).collect()
    }

    fn name(&self) -> String {
        self.item.name()
    }
}

/// Asks each server of the arguments. `ask` returns the name of the replica with its answer.
///
/// # Errors
///
/// That of the only server, that with which a server rejects the question, or those of all servers.
pub(super) async fn ask_each<T>(
    server: &ServerArgs,
    ask: impl AsyncFn(&ServerClient) -> Result<(String, T), ClientError>,
) -> Result<ReplicaAnswers<T>, CliError> {
    ask_all(&server.connect_all()?, ask).await
}

/// Asks each server of a connection. `ask` returns the name of the replica with its answer.
///
/// # Errors
///
/// Those of [`ask_each`].
pub(super) async fn ask_all<T>(
    connection: &ServerConnection,
    ask: impl AsyncFn(&ServerClient) -> Result<(String, T), ClientError>,
) -> Result<ReplicaAnswers<T>, CliError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (address, answer) in connection.each(ask).await {
        match answer {
            Ok((name, answer)) => found.push((address, name, answer)),
            Err(error) => missing.push((address, error)),
        }
    }
    if found.is_empty() {
        let rejection = missing.iter().position(|(_, error)| is_answer(error));
        let only = if missing.len() == 1 { Some(0) } else { rejection };
        return Err(match only {
            Some(at) => {
                let (address, error) = missing.swap_remove(at);
                CliError::Call { address, error }
            }
            None => CliError::NoServer(missing),
        });
    }
    Ok(ReplicaAnswers { answers: named(found), missing })
}

/// Names each answer by its replica, or by its address if two replicas have one name or one has none.
fn named<T>(found: Vec<(String, String, T)>) -> Vec<(String, T)> {
    let names: BTreeSet<_> = found.iter().map(|(_, name, _)| name.clone()).collect();
    let is_unique = names.len() == found.len() && !names.contains("");
    found.into_iter().map(|(address, name, answer)| (if is_unique { name } else { address }, answer)).collect()
}

impl<T> ReplicaAnswers<T> {
    /// Returns whether several servers were asked.
    pub(super) fn are_several(&self) -> bool {
        self.answers.len() + self.missing.len() > 1
    }

    /// Prints to standard error which servers did not answer. Returns the exit code: that of the first of them, or this one if all
    /// answered.
    pub(super) fn finish(&self, code: u8) -> ExitCode {
        if let Some(missing) = self.missing_text() {
            print_stderr(&format!("error: {}; the output lacks what they know", escape(&missing)));
        }
        ExitCode::from(self.missing.first().map_or(code, |(_, error)| call_exit_code(error)))
    }

    /// Returns which servers did not answer, and why. `None` if all answered.
    pub(super) fn missing_text(&self) -> Option<String> {
        if self.missing.is_empty() {
            return None;
        }
        let all = self.answers.len() + self.missing.len();
        let missing: Vec<_> = self.missing.iter().map(|(address, error)| format!("{address}: {error}")).collect();
        Some(format!("{} of {all} replicas did not answer: {}", missing.len(), missing.join("; ")))
    }
}

/// Prints a list of items. Tables name the replica if several were asked, other formats always.
pub(super) fn list<T: Printable>(
    format: OutputFormat,
    items: Vec<ReplicaItem<T>>,
    are_several: bool,
    empty: &str,
) -> Result<(), CliError> {
    match format {
        OutputFormat::Table | OutputFormat::Wide if !are_several => {
            let items: Vec<_> = items.into_iter().map(|item| item.item).collect();
            output::list(format, &items, empty)
        }
        OutputFormat::Table | OutputFormat::Wide | OutputFormat::Json | OutputFormat::Yaml | OutputFormat::Name => {
            output::list(format, &items, empty)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_named_by_address_if_their_names_are_not_unique() {
        let names = |found: [(&str, &str); 2]| {
            let found = found.map(|(address, name)| (address.to_owned(), name.to_owned(), ()));
            named(found.into()).into_iter().map(|(name, ())| name).collect::<Vec<_>>()
        };
        assert_eq!(names([("a:1", "eu-1"), ("b:2", "eu-2")]), ["eu-1", "eu-2"]);
        assert_eq!(names([("a:1", "host"), ("a:2", "host")]), ["a:1", "a:2"]);
        assert_eq!(names([("a:1", ""), ("b:2", "eu-2")]), ["a:1", "b:2"]);
    }
}

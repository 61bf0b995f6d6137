//! `callboard export` and `callboard import`: conversion of a data directory to JSON Lines and back.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal as _, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliError;
use crate::{clock::Clock, engine::disk};

#[derive(Debug, Args)]
#[command(
    after_help = "The registry must not be running. The export contains lease ids, which authorize changes of the \
                        registrations: protect the file."
)]
pub(super) struct ExportArgs {
    /// Data directory, as given to `callboard serve`
    #[arg(long, value_name = "DIR", env = "CALLBOARD_DATA_DIR")]
    data_dir: PathBuf,

    /// File to write; only its owner may read it [default: standard output]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The new registry has a new incarnation: every lease has its full TTL once the registry is served, and \
                        watches start over. A TTL check counts from its last report, as after a restart. If any part \
                        of the export is invalid, nothing is created."
)]
pub(super) struct ImportArgs {
    /// Data directory to create; it must not have a registry yet
    #[arg(long, value_name = "DIR", env = "CALLBOARD_DATA_DIR")]
    data_dir: PathBuf,

    /// File to read [default: standard input]
    file: Option<PathBuf>,
}

pub(super) fn export(args: &ExportArgs) -> Result<ExitCode, CliError> {
    done(write(args))
}

pub(super) fn import(args: &ImportArgs) -> Result<ExitCode, CliError> {
    done(read(args))
}

fn done(result: anyhow::Result<()>) -> Result<ExitCode, CliError> {
    result.map(|()| ExitCode::SUCCESS).map_err(CliError::from)
}

fn write(args: &ExportArgs) -> anyhow::Result<()> {
    let found = disk::Store::read(&args.data_dir)?;
    let progress = progress_bar(found.instances.len(), "exported");
    let report = || progress.inc(1);
    match &args.file {
        None => disk::export::write(&found, &mut BufWriter::new(io::stdout().lock()), report)?,
        Some(path) => {
            let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
            let file = options.with_context(|| format!("cannot write {}", path.display()))?;
            let write = |file: &File| {
                disk::export::write(&found, &mut BufWriter::new(file), report)?;
                file.sync_all()
            };
            write(&file).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    progress.finish_and_clear();
    for record in &found.unreadable {
        anstream::eprintln!(
            "warning: {record}: it is not in the export; keep {} until a version that can read it has exported it",
            args.data_dir.display()
        );
    }
    warn_of_skipped(&found);
    anstream::eprintln!("exported {}", contents(&found));
    Ok(())
}

fn read(args: &ImportArgs) -> anyhow::Result<()> {
    let input: Box<dyn Read> = match &args.file {
        None => Box::new(io::stdin().lock()),
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
    };
    let progress = progress_bar(0, "read");
    let mut total = None;
    let report = |count: usize| match total {
        None => {
            total = Some(count);
            progress.set_length(count as u64);
        }
        Some(_) => progress.inc(1),
    };
    let exported = disk::export::read(BufReader::new(input), report).with_context(|| source(args.file.as_deref()))?;
    progress.finish_and_clear();
    disk::import(&args.data_dir, &exported, Clock::new(0).now())?;
    warn_of_skipped(&exported);
    anstream::eprintln!("imported {} into {}", contents(&exported), args.data_dir.display());
    Ok(())
}

/// Warns of the earlier revisions of policies that this version cannot use.
fn warn_of_skipped(records: &disk::LoadedRecords) {
    for skipped in records.skipped_revisions() {
        anstream::eprintln!("warning: {skipped}");
    }
}

/// Returns the numbers of instances and policies; the latter only if there are some.
fn contents(records: &disk::LoadedRecords) -> String {
    let (instances, policies) = (records.instances.len(), records.policies.len());
    if policies == 0 {
        format!("{instances} instances")
    } else {
        format!("{instances} instances and {policies} policies")
    }
}

fn source(file: Option<&Path>) -> String {
    file.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
}

/// Returns a progress bar, which is shown on a terminal only.
fn progress_bar(length: usize, what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} {msg}, {eta} left");
    ProgressBar::new(length as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what)
}

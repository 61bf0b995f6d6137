//! `callboard export` and `callboard import`: conversion of a registry to JSON Lines and back.

mod running;

use std::{
    env, fmt,
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, IsTerminal as _, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{block_on, error::CliError};
use crate::{
    clock::Clock,
    config::{EtcdArgs, EtcdConfig},
    engine::{
        disk::{self, LoadedRecords},
        etcd,
    },
    server::etcd_options,
};
use running::RunningArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "With --data-dir the registry must not be running; with --etcd its replicas may run. With --server a running registry \
                        exports itself, also one in memory. The export contains lease ids, which authorize changes of the \
                        registrations: protect the file. With --server these are new ids, and the programs register again after an \
                        import. Results of checks are exported with --data-dir only."
)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    running: RunningArgs,

    /// File to write; only its owner may read it [default: standard output]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The store must not have a registry yet, and no replica may run during an import into etcd. The new registry has a new \
                        incarnation: every lease has its full TTL once the registry is served, and watches start over. On disk, a TTL \
                        check counts from its last report, as after a restart; in etcd, it has a full TTL. If any part of the \
                        export is invalid, nothing is created. A registry in memory reads an export with `callboard serve --import`."
)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// File to read [default: standard input]
    file: Option<PathBuf>,
}

/// Store of a registry.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
struct StoreArgs {
    /// Data directory, as given to `callboard serve` [env: CALLBOARD_DATA_DIR, if no flag names a registry]
    #[arg(long, value_name = "DIR", conflicts_with = "etcd")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
}

/// Store of a registry, validated.
#[derive(Debug)]
enum StoreLocation {
    Disk(PathBuf),
    Etcd(EtcdConfig),
}

impl StoreArgs {
    /// Returns the store that a flag names, or else the variable. `flags`: those that name a registry.
    fn location(&self, flags: &'static str) -> Result<StoreLocation, CliError> {
        let variable = || env::var_os("CALLBOARD_DATA_DIR").filter(|directory| !directory.is_empty());
        match (&self.data_dir, self.etcd.resolve().map_err(anyhow::Error::from)?) {
            (_, Some(etcd)) => Ok(StoreLocation::Etcd(etcd)),
            (Some(directory), None) => Ok(StoreLocation::Disk(directory.clone())),
            (None, None) => match variable() {
                Some(directory) => Ok(StoreLocation::Disk(directory.into())),
                None => Err(CliError::Usage(flags.into())),
            },
        }
    }
}

impl StoreLocation {
    fn load(&self) -> anyhow::Result<LoadedRecords> {
        Ok(match self {
            Self::Disk(directory) => disk::Store::read(directory)?,
            Self::Etcd(settings) => etcd::export(etcd_options(settings)?, &settings.cluster)?,
        })
    }

    fn create(&self, records: &LoadedRecords) -> anyhow::Result<()> {
        match self {
            Self::Disk(directory) => disk::import(directory, records, Clock::new(0).now())?,
            Self::Etcd(settings) => {
                etcd::import(etcd_options(settings)?, &settings.cluster, records, Clock::new(0).now().wall)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(directory) => directory.display().fmt(f),
            Self::Etcd(settings) => write!(f, "the registry {:?} in etcd", settings.cluster),
        }
    }
}

pub(super) fn export(args: ExportArgs) -> Result<ExitCode, CliError> {
    if args.running.is_named() {
        return block_on(running::export(args.running, args.file));
    }
    let store = args.store.location("name the registry with --data-dir, --etcd or --server")?;
    write(&store, args.file.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(args: &ImportArgs) -> Result<ExitCode, CliError> {
    let store = args.store.location("name the store with --data-dir or --etcd")?;
    read(&store, args.file.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

fn write(store: &StoreLocation, file: Option<&Path>) -> anyhow::Result<()> {
    let found = store.load()?;
    let progress = progress_bar(found.instances.len(), "exported");
    let report = || progress.inc(1);
    match file {
        None => disk::export::write(&found, &mut BufWriter::new(io::stdout().lock()), report)?,
        Some(path) => {
            let file = create(path)?;
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
            "warning: {record}: it is not in the export; keep {store} until a version that can read it has exported it"
        );
    }
    warn_of_skipped(&found);
    anstream::eprintln!("exported {}", contents(found.instances.len(), found.policies.len()));
    Ok(())
}

/// Creates the file of an export, or empties it. Only its owner may read it, because it has ids of leases.
fn create(path: &Path) -> anyhow::Result<File> {
    let created = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    created.with_context(|| format!("cannot write {}", path.display()))
}

fn read(store: &StoreLocation, file: Option<&Path>) -> anyhow::Result<()> {
    let input: Box<dyn Read> = match file {
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
    let exported = disk::export::read(BufReader::new(input), report).with_context(|| source(file))?;
    progress.finish_and_clear();
    store.create(&exported)?;
    warn_of_skipped(&exported);
    anstream::eprintln!("imported {} into {store}", contents(exported.instances.len(), exported.policies.len()));
    Ok(())
}

/// Warns of the earlier revisions of policies that this version cannot use.
fn warn_of_skipped(records: &LoadedRecords) {
    for skipped in records.skipped_revisions() {
        anstream::eprintln!("warning: {skipped}");
    }
}

/// Returns the numbers of instances and policies; the latter only if there are some.
fn contents(instances: usize, policies: usize) -> String {
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

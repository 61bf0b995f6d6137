//! Export of a running registry, which sends it part by part.

use std::{
    fs::File,
    io::{self, StdoutLock, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use tonic::{Response, Streaming};

use super::{contents, create, progress_bar};
use crate::{
    cli::{
        connection::{self, ServerArgs, ServerClient, TlsArgs},
        error::CliError,
        staleness::warn_of_staleness,
        terminal::print_stderr,
    },
    client::ClientError,
    pb::callboard::v1::{ExportRegistryRequest, ExportRegistryResponse},
};

/// Registry that runs.
#[derive(Debug, Args)]
pub(super) struct RunningArgs {
    /// gRPC address of a running registry, or of several replicas, separated by commas
    #[arg(
        long = "server",
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = connection::server,
        conflicts_with_all = ["data_dir", "etcd"]
    )]
    servers: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// With --server: include every write that was acknowledged before, at whichever replica
    #[arg(long, requires = "servers")]
    consistent: bool,
}

impl RunningArgs {
    /// Returns whether the arguments name a registry.
    pub(super) fn is_named(&self) -> bool {
        !self.servers.is_empty()
    }
}

/// Export whose first part has arrived.
#[derive(Debug)]
struct ArrivingExport {
    server: ServerClient,
    first: ExportRegistryResponse,
    parts: Streaming<ExportRegistryResponse>,
}

/// Output of an export.
#[derive(Debug)]
enum ExportOutput<'a> {
    Stdout(StdoutLock<'static>),
    File(File, &'a Path),
}

pub(super) async fn export(args: RunningArgs, file: Option<PathBuf>) -> Result<ExitCode, CliError> {
    let request = ExportRegistryRequest { consistent: args.consistent };
    let connection = ServerArgs::new(args.servers, args.tls).connect()?;
    let arriving = connection.repeatable(async |server| {
        let mut parts = server.call(server.admin().export_registry(request)).await?;
        let first = next_part(server, &mut parts).await?.ok_or(ClientError::StreamEnded)?;
        Ok(ArrivingExport { server: server.clone(), first, parts })
    });
    let ArrivingExport { server, first, mut parts } = arriving.await?;
    // Not before the registry has answered: if it cannot be reached, an earlier export stays as it is.
    let mut output = ExportOutput::open(file.as_deref())?;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let (instances, policies) = (count(first.instances), count(first.policies));
    let progress = progress_bar(instances, "exported");
    let mut part = first.data;
    loop {
        output.write(&part)?;
        progress.inc(part.split(|byte| *byte == b'\n').count() as u64 - 1);
        match next_part(&server, &mut parts).await {
            Ok(Some(next)) => part = next.data,
            Ok(None) => break,
            Err(error) => {
                print_stderr("warning: the export is incomplete, and an import rejects it: export again");
                return Err(server.error(error));
            }
        }
    }
    output.finish()?;
    progress.finish_and_clear();
    warn_of_staleness(first.staleness.as_ref());
    let exported = contents(instances, policies);
    print_stderr(&format!("exported {exported} at revision {} from {}", first.revision, server.address()));
    Ok(ExitCode::SUCCESS)
}

/// Waits for the next part until the timeout of a call. `None`: the export is complete.
async fn next_part(
    server: &ServerClient,
    parts: &mut Streaming<ExportRegistryResponse>,
) -> Result<Option<ExportRegistryResponse>, ClientError> {
    server.call(async { parts.message().await.map(Response::new) }).await
}

impl<'a> ExportOutput<'a> {
    fn open(file: Option<&'a Path>) -> anyhow::Result<Self> {
        Ok(match file {
            None => Self::Stdout(io::stdout().lock()),
            Some(path) => Self::File(create(path)?, path),
        })
    }

    fn write(&mut self, part: &[u8]) -> Result<(), CliError> {
        match self {
            Self::Stdout(out) => Ok(out.write_all(part)?),
            Self::File(file, path) => file.write_all(part).map_err(|error| unwritable(path, error)),
        }
    }

    /// Returns once a file is on the disk.
    fn finish(mut self) -> Result<(), CliError> {
        match &mut self {
            Self::Stdout(out) => Ok(out.flush()?),
            Self::File(file, path) => file.sync_all().map_err(|error| unwritable(path, error)),
        }
    }
}

fn unwritable(path: &Path, error: io::Error) -> CliError {
    anyhow::Error::from(error).context(format!("cannot write {}", path.display())).into()
}

//! `callboard health`: a health check by grpc.health.v1, as load balancers and kubelets perform it.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use super::{
    connection::{ServerArgs, with_deadline},
    error::{CliError, FINDINGS, lost},
    output::{self, OutputArgs, OutputFormat},
    terminal::{ErrorPrinter, coloured},
    view::set,
};
use crate::{
    client::{Backoff, ClientError, Servers, StreamConnector},
    pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient},
};

/// Timeout of the attempt to open a stream, like that of a watch. A registry that hangs accepts connections all the same.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The service [default: the registry itself]
    #[arg(value_name = "NAME")]
    service: Option<String>,
    /// Print each change of the status until interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct HealthView {
    service: Option<String>,
    status: &'static str,
}

pub(crate) async fn run(args: HealthArgs) -> Result<ExitCode, CliError> {
    let service = args.service.unwrap_or_default();
    let format = args.output.format;
    if args.watch {
        return HealthWatch::new(&args.server.servers()?, service, format).run().await;
    }
    let request = HealthCheckRequest { service };
    let connection = args.server.connect()?;
    let response =
        connection.repeatable(async |server| server.call(server.health().check(with_deadline(request.clone()))).await);
    let status = response.await?.status().as_str_name();
    print(format, &request.service, status)?;
    Ok(ExitCode::from(if status == "SERVING" { 0 } else { FINDINGS }))
}

/// Watch of a status that goes on at another server, or at the same one after its restart.
struct HealthWatch {
    connector: Box<dyn StreamConnector>,
    service: String,
    format: OutputFormat,
    backoff: Backoff,
    errors: ErrorPrinter,
    /// Status printed last. A stream begins with the present status, which may be the same.
    printed: Option<&'static str>,
}

impl HealthWatch {
    fn new(servers: &Servers, service: String, format: OutputFormat) -> Self {
        Self {
            connector: servers.connector(),
            service,
            format,
            backoff: Backoff::new(),
            errors: ErrorPrinter::default(),
            printed: None,
        }
    }

    async fn run(mut self) -> Result<ExitCode, CliError> {
        loop {
            let error = self.follow().await?;
            let address = self.connector.server().unwrap_or_default();
            let error = self.connector.failed(error);
            if error.is_permanent() {
                return Err(CliError::Call { address, error });
            }
            self.errors.print(format!("{}; retrying", lost(&address, &error)));
            tokio::time::sleep(self.backoff.delay(error.retry_after())).await;
        }
    }

    /// Prints the statuses of one stream until it breaks, and returns the error.
    async fn follow(&mut self) -> Result<ClientError, CliError> {
        let request = HealthCheckRequest { service: self.service.clone() };
        let mut client = HealthClient::new(self.connector.channel());
        let mut responses = match timeout(OPEN_TIMEOUT, client.watch(request)).await {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return Ok(status.into()),
            Err(_) => return Ok(ClientError::Timeout(OPEN_TIMEOUT)),
        };
        loop {
            match responses.message().await {
                Ok(Some(response)) => self.receive(response)?,
                Ok(None) => return Ok(ClientError::StreamEnded),
                Err(status) => return Ok(status.into()),
            }
        }
    }

    fn receive(&mut self, response: HealthCheckResponse) -> Result<(), CliError> {
        self.backoff.reset();
        self.errors.clear();
        let status = response.status().as_str_name();
        if self.printed != Some(status) {
            print(self.format, &self.service, status)?;
            self.printed = Some(status);
        }
        Ok(())
    }
}

fn print(format: OutputFormat, service: &str, status: &'static str) -> Result<(), CliError> {
    let view = HealthView { service: set(service.to_owned()), status };
    output::one(format, &view, Some(service), Some(&coloured(status)))
}

//! `callboard health`: a health check by grpc.health.v1, as load balancers and kubelets perform it.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerConnection, with_deadline},
    error::{CliError, FINDINGS, call},
    output::{self, OutputArgs, OutputFormat},
    terminal::{coloured, escape, print_stderr},
    view::set,
};
use crate::{
    client::{Backoff, ClientError, Endpoint},
    pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse},
};

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
    let server = args.server.endpoint()?;
    let service = args.service.unwrap_or_default();
    let format = args.output.format;
    if args.watch {
        return watch(&server, &service, format).await;
    }
    let connection = ServerConnection::to(&server);
    let request = with_deadline(HealthCheckRequest { service: service.clone() });
    let response = connection.call(connection.health().check(request)).await?;
    let status = print(format, &service, response)?;
    Ok(ExitCode::from(if status == "SERVING" { 0 } else { FINDINGS }))
}

/// Watches the status, and reconnects after the registry restarts.
async fn watch(server: &Endpoint, service: &str, format: OutputFormat) -> Result<ExitCode, CliError> {
    let mut backoff = Backoff::new();
    let mut printed_error = None;
    loop {
        let connection = ServerConnection::to(server);
        let error = match follow(&connection, service, format, &mut backoff, &mut printed_error).await? {
            error if error.is_permanent() => return Err(connection.error(error)),
            error => server.explain(error),
        };
        let message = call(&server.to_string(), &error);
        if printed_error.as_ref() != Some(&message) {
            print_stderr(&format!("{}; retrying", escape(&message)));
            printed_error = Some(message);
        }
        tokio::time::sleep(backoff.delay(error.retry_after())).await;
    }
}

/// Prints the statuses of one stream until it breaks, and returns the error.
async fn follow(
    connection: &ServerConnection,
    service: &str,
    format: OutputFormat,
    backoff: &mut Backoff,
    printed_error: &mut Option<String>,
) -> Result<ClientError, CliError> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut responses = match connection.health().watch(request).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return Ok(status.into()),
    };
    loop {
        match responses.message().await {
            Ok(Some(response)) => {
                backoff.reset();
                *printed_error = None;
                print(format, service, response)?;
            }
            Ok(None) => return Ok(ClientError::StreamEnded),
            Err(status) => return Ok(status.into()),
        }
    }
}

fn print(format: OutputFormat, service: &str, response: HealthCheckResponse) -> Result<&'static str, CliError> {
    let status = response.status().as_str_name();
    let view = HealthView { service: set(service.to_owned()), status };
    output::one(format, &view, Some(service), Some(&coloured(status)))?;
    Ok(status)
}

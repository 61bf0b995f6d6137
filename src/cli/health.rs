//! `callboard health`: asks what a load balancer or a kubelet would ask.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerConnection, ask},
    error::{CliError, FINDINGS, call},
    output::{self, OutputArgs, OutputFormat, coloured, complain, escape},
    view::set,
};
use crate::{
    client::{Backoff, ClientError, Endpoint},
    pb::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse},
};

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The service; the registry itself when not given
    #[arg(value_name = "NAME")]
    service: Option<String>,
    /// Print each change until interrupted
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
    let request = ask(HealthCheckRequest { service: service.clone() });
    let answer = connection.answer(connection.health().check(request)).await?;
    let status = print(format, &service, answer)?;
    Ok(ExitCode::from(if status == "SERVING" { 0 } else { FINDINGS }))
}

/// Asks on through the registry's restarts, as the health protocol has it.
async fn watch(server: &Endpoint, service: &str, format: OutputFormat) -> Result<ExitCode, CliError> {
    let mut backoff = Backoff::new();
    let mut told = None;
    loop {
        let connection = ServerConnection::to(server);
        let error = match follow(&connection, service, format, &mut backoff, &mut told).await? {
            error if error.is_final() => return Err(connection.failure(error)),
            error => server.explain(error),
        };
        let trouble = call(&server.to_string(), &error);
        if told.as_ref() != Some(&trouble) {
            complain(&format!("{}; trying on", escape(&trouble)));
            told = Some(trouble);
        }
        tokio::time::sleep(backoff.delay(error.retry_after())).await;
    }
}

/// One stream, until it breaks.
async fn follow(
    connection: &ServerConnection,
    service: &str,
    format: OutputFormat,
    backoff: &mut Backoff,
    told: &mut Option<String>,
) -> Result<ClientError, CliError> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut answers = match connection.health().watch(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok(status.into()),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                backoff.reset();
                *told = None;
                print(format, service, answer)?;
            }
            Ok(None) => return Ok(ClientError::Ended),
            Err(status) => return Ok(status.into()),
        }
    }
}

fn print(format: OutputFormat, service: &str, answer: HealthCheckResponse) -> Result<&'static str, CliError> {
    let status = answer.status().as_str_name();
    let view = HealthView { service: set(service.to_owned()), status };
    output::one(format, &view, Some(service), Some(&coloured(status)))?;
    Ok(status)
}

//! Calls to the registry, with a timeout, paging, and errors that name the servers that were tried.

mod failover;
mod server_client;

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use tonic::Request;

use super::error::CliError;
use crate::client::{ClientError, Endpoint, Servers, TlsConfig};
pub(super) use failover::{ServerConnection, is_answer, is_outcome_unknown};
pub(super) use server_client::{ServerClient, pages};

/// Timeout of a call. The server receives it as the call's deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Address of a registry with default settings.
pub(super) const DEFAULT_SERVER: &str = "127.0.0.1:8502";

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// gRPC address of the registry, or of several replicas, separated by commas
    #[arg(
        long = "server",
        value_name = "ADDR",
        env = "CALLBOARD_SERVER",
        default_value = DEFAULT_SERVER,
        value_delimiter = ',',
        value_parser = server
    )]
    servers: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
}

/// TLS files for connections to the registry.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
pub(super) struct TlsArgs {
    /// Use TLS, and trust the authorities in this PEM file instead of the system's trust store
    #[arg(long = "tls-ca", value_name = "FILE", env = "CALLBOARD_TLS_CA")]
    pub(super) ca_file: Option<PathBuf>,
    /// Use TLS, and present this client certificate [env: CALLBOARD_TLS_CERT, if TLS is used]
    #[arg(long = "tls-cert", value_name = "FILE", requires = "key_file")]
    pub(super) certificate_file: Option<PathBuf>,
    /// Private key of --tls-cert [env: CALLBOARD_TLS_KEY]
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate_file")]
    pub(super) key_file: Option<PathBuf>,
    /// Use TLS, and expect this name in the server's certificate instead of the host of --server
    #[arg(long = "tls-server-name", value_name = "NAME", env = "CALLBOARD_TLS_SERVER_NAME")]
    pub(super) server_name: Option<String>,
}

/// Checks an address of --server.
pub(super) fn server(text: &str) -> Result<String, ClientError> {
    let address = text.trim();
    Endpoint::check(address).map(|()| address.to_owned())
}

impl ServerArgs {
    /// Arguments of a command that has flags of its own for the servers.
    pub(super) fn new(servers: Vec<String>, tls: TlsArgs) -> Self {
        Self { servers, tls }
    }

    /// Returns the servers. TLS is used if the address or a flag asks for it. An address that is given twice counts once.
    pub(crate) fn servers(&self) -> Result<Servers, CliError> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for address in &self.servers {
            let endpoint = self.endpoint(address)?;
            if endpoints.iter().all(|other| other.to_string() != endpoint.to_string()) {
                endpoints.push(endpoint);
            }
        }
        Ok(Servers::of(endpoints))
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, CliError> {
        let failed = |error| CliError::Call { address: address.to_owned(), error };
        if !self.tls.is_wanted() && !address.starts_with("https://") {
            return address.parse().map_err(failed);
        }
        let mut tls = TlsConfig::default();
        if let Some(file) = &self.tls.ca_file {
            tls = tls.with_ca(file);
        }
        if let Some(name) = &self.tls.server_name {
            tls = tls.with_server_name(name);
        }
        if let Some((certificate, key)) = self.tls.certificate()? {
            tls = tls.with_certificate(certificate, key);
        }
        Endpoint::with_tls(address, tls).map_err(failed)
    }

    /// Returns a connection to one of the servers, which is opened at the first call.
    pub(crate) fn connect(&self) -> Result<ServerConnection, CliError> {
        Ok(ServerConnection::new(self.servers()?.shuffled()))
    }

    /// Returns connections to all servers, in the order of the arguments.
    pub(crate) fn connect_all(&self) -> Result<ServerConnection, CliError> {
        Ok(ServerConnection::new(self.servers()?.endpoints()))
    }
}

impl TlsArgs {
    /// Returns whether a flag asks for TLS.
    pub(super) fn is_wanted(&self) -> bool {
        self.ca_file.is_some() || self.certificate_file.is_some() || self.server_name.is_some()
    }

    /// Returns the client certificate and its key, from the flags or from the variables. The variables are those of `serve`
    /// as well, so they alone do not turn on TLS.
    pub(super) fn certificate(&self) -> Result<Option<(PathBuf, PathBuf)>, CliError> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key_file) {
            return Ok(Some((certificate.clone(), key.clone())));
        }
        match (variable("CALLBOARD_TLS_CERT"), variable("CALLBOARD_TLS_KEY")) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(CliError::Usage("CALLBOARD_TLS_CERT is set, but CALLBOARD_TLS_KEY is not; set both".into()))
            }
            (None, Some(_)) => {
                Err(CliError::Usage("CALLBOARD_TLS_KEY is set, but CALLBOARD_TLS_CERT is not; set both".into()))
            }
        }
    }
}

/// Returns a request with the timeout as its deadline.
pub(crate) fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

//! Bootstrap of a gRPC client, as JSON.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Bootstrap, BootstrapClient, BootstrapNode, BootstrapTls};
use crate::cli::{error::CliError, output};

/// Features of the registry. Without `xds_v3`, older clients use a version of xDS that the registry does not have. With
/// `ignore_resource_deletion`, clients keep a service that a response leaves out.
const SERVER_FEATURES: [&str; 2] = ["xds_v3", "ignore_resource_deletion"];

#[derive(Debug, Serialize)]
struct GrpcBootstrap<'a> {
    xds_servers: Vec<XdsServer>,
    node: &'a BootstrapNode,
}

#[derive(Debug, Serialize)]
struct XdsServer {
    server_uri: String,
    channel_creds: [ChannelCredentials; 1],
    server_features: [&'static str; 2],
}

#[derive(Debug, Serialize)]
struct ChannelCredentials {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Map<String, Value>>,
}

/// Returns the bootstrap of a gRPC client.
pub(super) fn json(bootstrap: &Bootstrap, client: BootstrapClient) -> Result<String, CliError> {
    let scheme = client.scheme(bootstrap.tls.is_some());
    let xds_servers = bootstrap.servers.iter().map(|address| XdsServer {
        server_uri: format!("{scheme}{address}"),
        channel_creds: [credentials(bootstrap.tls.as_ref())],
        server_features: SERVER_FEATURES,
    });
    let file = GrpcBootstrap { xds_servers: xds_servers.collect(), node: &bootstrap.node };
    Ok(output::json(&file, true)? + "\n")
}

/// Returns the credentials for the connection to the registry. Without a file of authorities, the client trusts those of its
/// system.
fn credentials(tls: Option<&BootstrapTls>) -> ChannelCredentials {
    let Some(tls) = tls else { return ChannelCredentials { kind: "insecure", config: None } };
    let certificate = tls.certificate.as_ref();
    let files = [
        ("ca_certificate_file", tls.ca.as_ref()),
        ("certificate_file", certificate.map(|(certificate, _)| certificate)),
        ("private_key_file", certificate.map(|(_, key)| key)),
    ];
    let config = files.into_iter().filter_map(|(name, path)| {
        path.map(|path| (name.to_owned(), Value::from(path.to_string_lossy().into_owned())))
    });
    ChannelCredentials { kind: "tls", config: Some(config.collect()) }
}

//! Configuration of Envoy, as YAML.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{Bootstrap, BootstrapTls};
use crate::cli::error::CliError;

/// Name of the cluster of registries. No service can have it, because the names of services start with a letter or a digit.
const REGISTRY_CLUSTER: &str = "_callboard";

/// Settings that only Envoy has.
#[derive(Debug, Default)]
pub(super) struct EnvoyOptions<'a> {
    pub(super) delta: bool,
    /// Service that a listener receives calls for, and the address of the listener.
    pub(super) listener: Option<(&'a str, SocketAddr)>,
    pub(super) admin: Option<SocketAddr>,
}

/// Returns a complete configuration.
pub(super) fn yaml(bootstrap: &Bootstrap, options: &EnvoyOptions<'_>) -> Result<String, CliError> {
    let node = &bootstrap.node;
    let locality = &node.locality;
    let mut text = format!(
        r"node:
  id: {id}
  cluster: {cluster}
  locality: {{region: {region}, zone: {zone}, sub_zone: {sub_zone}}}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: {REGISTRY_CLUSTER}}}}}]
  cds_config: {{resource_api_version: V3, ads: {{}}}}
",
        id = scalar(&node.id)?,
        cluster = scalar(&node.cluster)?,
        region = scalar(&locality.region)?,
        zone = scalar(&locality.zone)?,
        sub_zone = scalar(&locality.sub_zone)?,
        api_type = if options.delta { "DELTA_GRPC" } else { "GRPC" },
    );
    if let Some(admin) = options.admin {
        // Writing to a string does not fail.
        let _ = writeln!(text, "admin:\n  address: {}", socket_address(&admin.ip().to_string(), admin.port())?);
    }
    text.push_str("static_resources:\n");
    text.push_str(&registry_cluster(bootstrap)?);
    if let Some((service, address)) = options.listener {
        text.push_str(&listener(service, address)?);
    }
    Ok(text)
}

/// Returns the cluster of registries. Envoy tries all addresses of a name; by default, it ignores the IPv4 addresses of a
/// name that has others. Pings notice a registry that vanished without closing the connection.
fn registry_cluster(bootstrap: &Bootstrap) -> Result<String, CliError> {
    let (mut hosts, mut endpoints) = (Vec::new(), Vec::new());
    for address in &bootstrap.servers {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = socket_address(host, port.parse().map_err(anyhow::Error::from)?)?;
        endpoints.push(format!("{{endpoint: {{address: {address}}}}}"));
        hosts.push(host);
    }
    let is_ip = |host: &&str| host.parse::<IpAddr>().is_ok();
    let mut text = format!(
        r#"  clusters:
  - name: {REGISTRY_CLUSTER}
    type: {discovery}
    dns_lookup_family: ALL
    connect_timeout: 3s
    load_assignment:
      cluster_name: {REGISTRY_CLUSTER}
      endpoints: [{{lb_endpoints: [{endpoints}]}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {{connection_keepalive: {{interval: 20s, timeout: 10s}}}}
"#,
        discovery = if hosts.iter().all(is_ip) { "STATIC" } else { "STRICT_DNS" },
        endpoints = endpoints.join(", "),
    );
    if let Some(tls) = &bootstrap.tls {
        text.push_str(&transport_socket(tls, &hosts)?);
    }
    Ok(text)
}

/// Returns the TLS settings. The certificate of any of the hosts is accepted from each, because the endpoints of a cluster share them.
fn transport_socket(tls: &BootstrapTls, hosts: &[&str]) -> Result<String, CliError> {
    let mut names: Vec<&str> = tls.server_name.as_deref().map_or_else(|| hosts.to_vec(), |name| vec![name]);
    names.dedup();
    let is_ip = |name: &&str| name.parse::<IpAddr>().is_ok();
    let matchers = names.iter().map(|name| {
        let kind = if is_ip(name) { "IP_ADDRESS" } else { "DNS" };
        Ok(format!("{{san_type: {kind}, matcher: {{exact: {}}}}}", scalar(name)?))
    });
    let matchers = matchers.collect::<Result<Vec<_>, CliError>>()?;
    let mut text = format!(
        r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          alpn_protocols: [h2]
          validation_context:
            trusted_ca: {{filename: {ca}}}
            match_typed_subject_alt_names: [{matchers}]
"#,
        ca = path(tls.ca.as_deref().unwrap_or(Path::new("")))?,
        matchers = matchers.join(", "),
    );
    if let Some((certificate, key)) = &tls.certificate {
        let (certificate, key) = (path(certificate)?, path(key)?);
        let _ = writeln!(
            text,
            "          tls_certificates: [{{certificate_chain: {{filename: {certificate}}}, private_key: {{filename: {key}}}}}]"
        );
    }
    if let Some(name) = names.iter().find(|name| !is_ip(name)) {
        let _ = writeln!(text, "        sni: {}", scalar(name)?);
    }
    Ok(text)
}

/// Returns a listener for the calls to a service. A call may be silent for any time; by default, Envoy ends it after five
/// minutes.
fn listener(service: &str, address: SocketAddr) -> Result<String, CliError> {
    Ok(format!(
        r#"  listeners:
  - name: {service}
    address: {address}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {service}
          stream_idle_timeout: 0s
          rds:
            route_config_name: {service}
            config_source: {{resource_api_version: V3, ads: {{}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"#,
        service = scalar(service)?,
        address = socket_address(&address.ip().to_string(), address.port())?,
    ))
}

fn socket_address(host: &str, port: u16) -> Result<String, CliError> {
    Ok(format!("{{socket_address: {{address: {}, port_value: {port}}}}}", scalar(host)?))
}

fn path(path: &Path) -> Result<String, CliError> {
    scalar(&path.to_string_lossy())
}

/// Returns text as a YAML scalar in double quotes. A string of JSON is one.
fn scalar(text: &str) -> Result<String, CliError> {
    Ok(serde_json::to_string(text).map_err(anyhow::Error::from)?)
}

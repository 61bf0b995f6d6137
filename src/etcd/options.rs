//! Settings of a client.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;

use super::connection::MemberEndpoint;
use crate::client::TlsConfig;

/// Settings of an [`EtcdClient`](super::EtcdClient).
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Members of the cluster, in the order in which they are tried: `http://host:port`, or `https://host:port` with TLS.
    pub endpoints: Vec<String>,
    /// User and password, if etcd requires them.
    pub credentials: Option<EtcdCredentials>,
    /// TLS settings of `https` endpoints.
    pub tls: EtcdTls,
    /// Maximum time in which a connection opens, TLS and HTTP/2 included.
    pub connect_timeout: Duration,
    /// Maximum time in which one member answers a request.
    pub request_timeout: Duration,
}

/// User of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdCredentials {
    /// Name of the user.
    pub user: String,
    /// Password of the user.
    pub password: String,
}

/// Files in PEM for `https` endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates of the authorities that signed etcd's certificates; without it those of the system.
    pub ca: Option<PathBuf>,
    /// Certificate of this client and its key, if etcd asks for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Invalid settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdOptionsError {
    /// There is no endpoint.
    #[error("no endpoint of etcd: name at least one, as in http://127.0.0.1:2379")]
    NoEndpoint,
    /// An endpoint is not a URL of a member.
    #[error("`{endpoint}` is not an endpoint of etcd: {reason}; write http://host:port, as in http://127.0.0.1:2379")]
    Endpoint {
        /// The invalid endpoint.
        endpoint: String,
        /// Reason why it is invalid.
        reason: &'static str,
    },
    /// TLS files were given, but this endpoint does not use TLS.
    #[error("`{endpoint}` is not reached over TLS, so the certificates have no use: write https://, or leave them out")]
    UnusedTls {
        /// Endpoint without TLS.
        endpoint: String,
    },
    /// A TLS file cannot be used.
    #[error("{0}")]
    TlsFile(String),
}

impl EtcdOptions {
    /// Default of `connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// Default of `request_timeout`.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

    /// Returns the settings for these endpoints, with neither user nor certificates.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            credentials: None,
            tls: EtcdTls::default(),
            connect_timeout: Self::CONNECT_TIMEOUT,
            request_timeout: Self::REQUEST_TIMEOUT,
        }
    }

    /// Checks the endpoints and reads the TLS files.
    pub(super) fn member_endpoints(&self) -> Result<Vec<MemberEndpoint>, EtcdOptionsError> {
        if self.endpoints.is_empty() {
            return Err(EtcdOptionsError::NoEndpoint);
        }
        let mut tls = None;
        let mut found = Vec::with_capacity(self.endpoints.len());
        for url in &self.endpoints {
            let invalid = |reason| EtcdOptionsError::Endpoint { endpoint: url.clone(), reason };
            let uri = parse(url).map_err(invalid)?;
            let is_tls = uri.scheme_str() == Some("https");
            let name = if is_tls {
                let config = match &tls {
                    Some(config) => config,
                    None => tls.insert(self.tls_config()?),
                };
                let host = uri.host().unwrap_or_default();
                let name = config.0.name(host).ok_or_else(|| invalid("the host cannot occur in a certificate"))?;
                Some((config.1.clone(), name))
            } else if self.tls != EtcdTls::default() {
                return Err(EtcdOptionsError::UnusedTls { endpoint: url.clone() });
            } else {
                None
            };
            found.push(MemberEndpoint { url: url.trim_end_matches('/').to_owned(), uri, tls: name });
        }
        Ok(found)
    }

    fn tls_config(&self) -> Result<(TlsConfig, std::sync::Arc<rustls::ClientConfig>), EtcdOptionsError> {
        let mut config = TlsConfig::default();
        if let Some(ca) = &self.tls.ca {
            config = config.with_ca(ca);
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            config = config.with_certificate(certificate, key);
        }
        let read = config.read().map_err(|error| EtcdOptionsError::TlsFile(error.to_string()))?;
        Ok((config, read))
    }
}

impl fmt::Debug for EtcdCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdCredentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Parses the URL of a member.
fn parse(url: &str) -> Result<Uri, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is malformed")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("the scheme is neither http nor https"),
        None => return Err("the scheme is missing"),
    }
    if uri.port_u16().is_none() {
        return Err("the port is missing");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("a user has settings of its own");
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err("it has a path");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_endpoint_is_reported_with_reason_and_example() {
        for (url, reason) in [
            ("127.0.0.1", "the scheme is missing"),
            ("127.0.0.1:2379", "the scheme is missing"),
            ("unix://etcd:1", "the scheme is neither http nor https"),
            ("http://etcd", "the port is missing"),
            ("http://root@etcd:2379", "a user has settings of its own"),
            ("http://etcd:2379/v3", "it has a path"),
            ("http://et cd:2379", "it is malformed"),
        ] {
            let error = EtcdOptions::new([url]).member_endpoints().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(url), "{error}");
            assert!(error.ends_with("as in http://127.0.0.1:2379"), "{error}");
        }
        let none = EtcdOptions::new(Vec::<String>::new()).member_endpoints().unwrap_err();
        assert_eq!(none, EtcdOptionsError::NoEndpoint);
    }

    #[test]
    fn certificates_without_https_are_rejected() {
        let mut options = EtcdOptions::new(["http://127.0.0.1:2379/"]);
        assert_eq!(options.member_endpoints().unwrap()[0].url, "http://127.0.0.1:2379");
        options.tls.ca = Some("ca.pem".into());
        let error = options.member_endpoints().unwrap_err();
        assert!(matches!(error, EtcdOptionsError::UnusedTls { .. }), "{error}");
        options.endpoints = vec!["https://127.0.0.1:2379".to_owned()];
        let error = options.member_endpoints().unwrap_err();
        assert!(matches!(&error, EtcdOptionsError::TlsFile(text) if text.starts_with("ca.pem: ")), "{error}");
    }

    #[test]
    fn password_is_not_printed() {
        let credentials = EtcdCredentials { user: "root".to_owned(), password: "secret".to_owned() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}

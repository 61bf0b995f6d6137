//! The `Host` of requests, and headers that protect browsers.
//!
//! In DNS rebinding, the host name of a web page resolves to this machine. For the browser, page and registry then have the same origin, so
//! the page can read every answer. Its requests have the host name of the page in `Host`. Therefore a request over plain HTTP is served
//! only for an IP address, for `localhost`, or for a name of `--http-host`. TLS needs no such list: the browser compares the name with the
//! certificate.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    http::{
        HeaderValue, StatusCode, Version,
        header::{HOST, X_CONTENT_TYPE_OPTIONS},
        uri::Authority,
    },
    response::{IntoResponse, Response},
};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Maximum length of the part of an invalid host that an error quotes, in bytes.
const MAX_QUOTED_BYTES: usize = 100;

/// Hosts for which requests are served.
#[derive(Debug, Clone)]
pub enum AllowedHosts {
    /// Every host: the listener speaks TLS.
    Any,
    /// IP addresses, `localhost`, and these names in lower case.
    Named(Arc<[String]>),
}

/// Error of a request for a host that is not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error(
        "the request is for host {0:?}, which is not a name of this registry: call it by its IP address or as localhost, or start it \
         with --http-host and that name"
    )]
    NotAllowed(String),
    #[error(
        "the request has no Host header, or an empty one: send one with the address that you call, as HTTP/1.1 requires"
    )]
    Missing,
    #[error("the request has several Host headers: send one")]
    Repeated,
}

impl IntoResponse for HostError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NotAllowed(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Missing | Self::Repeated => StatusCode::BAD_REQUEST,
        };
        (status, format!("{self}\n")).into_response()
    }
}

impl AllowedHosts {
    /// Checks the authority of the request's target and its `Host`.
    pub(super) fn check<B>(&self, request: &axum::http::Request<B>) -> Result<(), HostError> {
        let Self::Named(names) = self else { return Ok(()) };
        let target = request.uri().authority().map(Authority::as_str);
        let mut headers = request.headers().get_all(HOST).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(HostError::Repeated);
        }
        // A request in absolute form names its host twice, and servers use the one in the target.
        let header = header.filter(|host| !host.is_empty());
        if target.is_none() && header.is_none() && request.version() >= Version::HTTP_11 {
            return Err(HostError::Missing);
        }
        let text = |value: &HeaderValue| match value.to_str() {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(not_allowed(&String::from_utf8_lossy(value.as_bytes()))),
        };
        let header = header.map(text).transpose()?;
        for host in target.into_iter().chain(header.as_deref()) {
            if !is_allowed(host, names) {
                return Err(not_allowed(host));
            }
        }
        Ok(())
    }
}

fn not_allowed(host: &str) -> HostError {
    HostError::NotAllowed(host[..host.floor_char_boundary(MAX_QUOTED_BYTES)].to_owned())
}

/// Returns whether `HOST` or `HOST:PORT` is an address, `localhost` or one of the names.
fn is_allowed(host: &str, names: &[String]) -> bool {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Layer that rejects requests for other hosts, and sends the header that keeps browsers from guessing the media type
/// of an answer.
#[derive(Debug, Clone)]
pub(super) struct BrowserGuardLayer(pub(super) AllowedHosts);

impl<S> Layer<S> for BrowserGuardLayer {
    type Service = BrowserGuard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BrowserGuard { hosts: self.0.clone(), inner }
    }
}

/// Service behind [`BrowserGuardLayer`].
#[derive(Debug, Clone)]
pub(super) struct BrowserGuard<S> {
    hosts: AllowedHosts,
    inner: S,
}

impl<S> Service<Request> for BrowserGuard<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = GuardedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.hosts.check(&request) {
            Ok(()) => GuardedFuture::Served { inner: self.inner.call(request) },
            Err(error) => GuardedFuture::Rejected { error: Some(error) },
        }
    }
}

pin_project! {
    /// Response of a [`BrowserGuard`].
    #[project = GuardedFutureProjection]
    pub(super) enum GuardedFuture<F> {
        Served {
            #[pin]
            inner: F,
        },
        Rejected { error: Option<HostError> },
    }
}

impl<F, E> Future for GuardedFuture<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match self.project() {
            GuardedFutureProjection::Served { inner } => ready!(inner.poll(context))?,
            GuardedFutureProjection::Rejected { error } => match error.take() {
                Some(error) => error.into_response(),
                None => return Poll::Pending,
            },
        };
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: axum::http::request::Builder) -> Result<(), HostError> {
        let names = ["registry.example.com".to_owned(), "callboard".to_owned()];
        AllowedHosts::Named(names.into()).check(&request.body(()).unwrap())
    }

    fn with_host(host: &[u8]) -> axum::http::request::Builder {
        Request::builder().header(HOST, HeaderValue::from_bytes(host).unwrap())
    }

    #[test]
    fn addresses_localhost_and_named_hosts_are_served() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8500",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:8500",
            "[fe80::1]:8500",
            "localhost",
            "LocalHost:8500",
            "localhost.",
            "callboard:8500",
            "Registry.Example.Com",
            "registry.example.com.:8500",
        ] {
            assert_eq!(check(with_host(host.as_bytes())), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_rejected_with_the_value_and_the_flag() {
        for host in [
            ":8500",
            "evil.example",
            "evil.example:8500",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "127.0.0.1:8500@evil.example",
            "evil.example:8500:127.0.0.1",
            "::1",
            "[::1",
            "[::1]evil.example",
            "[evil.example]",
            "[::1]:x",
            "2130706433",
            "0x7f000001",
        ] {
            let error = check(with_host(host.as_bytes())).unwrap_err();
            assert_eq!(error, HostError::NotAllowed(host.to_owned()));
            assert!(error.to_string().contains(&format!("{host:?}")), "{error}");
            assert!(error.to_string().contains("--http-host"), "{error}");
        }
        assert!(check(with_host(b"evil\xff")).is_err());
        assert!(check(with_host(&[b'x'; 4_096])).unwrap_err().to_string().len() < 400);
    }

    #[test]
    fn host_is_needed_once_in_http_1_1_and_never_in_http_1_0() {
        assert_eq!(check(Request::builder().version(Version::HTTP_10)), Ok(()));
        assert_eq!(check(Request::builder()), Err(HostError::Missing));
        assert_eq!(check(with_host(b"")), Err(HostError::Missing));
        let twice = with_host(b"localhost").header(HOST, "localhost");
        assert_eq!(check(twice), Err(HostError::Repeated));
        let rebound = with_host(b"evil.example").version(Version::HTTP_10);
        assert!(matches!(check(rebound), Err(HostError::NotAllowed(_))));
    }

    #[test]
    fn request_in_absolute_form_needs_both_hosts_to_be_allowed() {
        let request = |target: &str, host: &str| check(with_host(host.as_bytes()).uri(target));
        assert_eq!(request("http://127.0.0.1:8500/healthz", "localhost"), Ok(()));
        assert_eq!(check(Request::builder().uri("http://127.0.0.1:8500/healthz")), Ok(()));
        assert!(request("http://evil.example/healthz", "localhost").is_err());
        assert!(request("http://127.0.0.1/healthz", "evil.example").is_err());
        assert!(request("http://evil.example@127.0.0.1/healthz", "localhost").is_err());
    }

    #[test]
    fn listener_with_tls_serves_every_host() {
        assert_eq!(AllowedHosts::Any.check(&with_host(b"registry.example.com").body(()).unwrap()), Ok(()));
    }
}

//! URLs of HTTP checks and of redirects.
//!
//! One parser serves admission, connections, requests and redirects. If two parsers disagreed about the host of a URL, the policy
//! could admit one host while the probe connects to another.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use url::{Host, ParseError, Url};

use crate::model::ProbeTarget;

/// URL with the scheme `http` or `https`, and a host.
#[derive(Clone)]
pub(super) struct ProbeUrl(Url);

impl ProbeUrl {
    /// Parses a URL. The error has the text of Go's `net/http`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Url::parse(text).map_err(|error| error.to_string()).and_then(Self::usable)
    }

    /// Resolves the target of a redirect against this URL.
    pub(super) fn join(&self, location: &str) -> Result<Self, String> {
        let failed = |error: ParseError| format!("failed to parse Location header {location:?}: {error}");
        self.0.join(location).map_err(failed).and_then(Self::usable)
    }

    fn usable(url: Url) -> Result<Self, String> {
        match (url.scheme(), url.has_host()) {
            ("http" | "https", true) => Ok(Self(url)),
            ("http" | "https", false) => Err("no Host in request URL".to_owned()),
            (other, _) => Err(format!("unsupported protocol scheme {other:?}")),
        }
    }

    /// Returns whether the scheme is `https`.
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns host and port to connect to.
    pub(super) fn target(&self) -> ProbeTarget {
        let host = match self.0.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        };
        let port = self.0.port_or_known_default().unwrap_or_default();
        ProbeTarget { host: host.into(), port }
    }

    /// Returns the value of the header `Host`: without the port, if that is the default of the scheme.
    pub(super) fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Returns path and query for the request line.
    pub(super) fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }

    /// Returns the header value for basic authentication, if the URL has a user or a password.
    pub(super) fn credentials(&self) -> Option<HeaderValue> {
        if self.0.username().is_empty() && self.0.password().is_none() {
            return None;
        }
        let mut pair: Vec<u8> = percent_decode_str(self.0.username()).collect();
        pair.push(b':');
        pair.extend(percent_decode_str(self.0.password().unwrap_or_default()));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns whether credentials for this URL may also be sent to another URL: to the same host and port, and not from `https` to
    /// `http`. The default ports of `http` and `https` count as one server.
    pub(super) fn shares_credentials_with(&self, other: &Self) -> bool {
        let (here, there) = (self.target(), other.target());
        let upgrade = (here.port, there.port) == (80, 443) && other.is_https();
        here.host == there.host && (here.port == there.port || upgrade) && (other.is_https() || !self.is_https())
    }

    /// Returns the URL with its password hidden, for messages and logs.
    pub(super) fn shown(&self) -> String {
        let mut url = self.0.clone();
        if url.password().is_some() {
            // Fails only for URLs without a host.
            let _ = url.set_password(Some("***"));
        }
        url.into()
    }
}

/// Returns whether the target of a redirect has no scheme.
pub(super) fn is_relative(location: &str) -> bool {
    matches!(Url::parse(location), Err(ParseError::RelativeUrlWithoutBase))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ProbeUrl {
        ProbeUrl::parse(text).unwrap()
    }

    #[test]
    fn url_gives_target_host_header_and_path() {
        for (text, target, authority, path) in [
            ("HTTP://user:secret@127.0.0.1:8080/e?x=1#part", "127.0.0.1:8080", "127.0.0.1:8080", "/e?x=1"),
            ("http://[::1]?ready", "[::1]:80", "[::1]", "/?ready"),
            ("https://Web.Internal", "web.internal:443", "web.internal", "/"),
            ("http://10.0.0.1@169.254.169.254/", "169.254.169.254:80", "169.254.169.254", "/"),
            ("http://2852039166/", "169.254.169.254:80", "169.254.169.254", "/"),
            ("http://h/a b/ü", "h:80", "h", "/a%20b/%C3%BC"),
        ] {
            let url = url(text);
            assert_eq!(url.target().to_string(), target);
            assert_eq!((url.authority().as_str(), url.path_and_query().as_str()), (authority, path), "{text}");
        }
        for (invalid, expected) in
            [("ftp://h/", "unsupported protocol scheme"), ("http://", "host"), ("http://h:99999/", "port")]
        {
            assert!(ProbeUrl::parse(invalid).err().is_some_and(|error| error.contains(expected)), "{invalid}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_hidden_in_messages() {
        let basic = |text: &str| url(text).credentials().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(basic("http://user:p%40ss@h/").as_deref(), Some("Basic dXNlcjpwQHNz"));
        assert_eq!(basic("http://user@h/").as_deref(), Some("Basic dXNlcjo="));
        assert_eq!(basic("http://h/"), None);
        assert_eq!(url("http://user:secret@h/x").shown(), "http://user:***@h/x");
        assert_eq!(url("http://user@h/x").shown(), "http://user@h/x");
    }

    #[test]
    fn credentials_are_kept_for_same_host_and_port_without_downgrade() {
        for (from, to, shares) in [
            ("http://h/a", "http://h/b", true),
            ("http://h/", "https://h/", true),
            ("http://h:80/", "https://H:443/", true),
            ("http://h/", "https://h:8443/", false),
            ("https://h/", "http://h/", false),
            ("https://h:80/", "http://h:80/", false),
            ("http://h/", "http://sub.h/", false),
            ("http://127.0.0.1:1/", "http://127.0.0.1:2/", false),
            ("http://127.0.0.1/", "http://localhost/", false),
        ] {
            assert_eq!(url(from).shares_credentials_with(&url(to)), shares, "{from} to {to}");
        }
    }

    #[test]
    fn redirect_is_resolved_and_keeps_user_only_if_relative() {
        let from = url("http://user:secret@h:8080/a/b?x");
        for (location, to) in [
            ("/c", "http://user:***@h:8080/c"),
            ("c?y", "http://user:***@h:8080/a/c?y"),
            ("?y", "http://user:***@h:8080/a/b?y"),
            ("//other/c", "http://other/c"),
            ("http://h:8080/c", "http://h:8080/c"),
            ("https://h/", "https://h/"),
        ] {
            assert_eq!(from.join(location).unwrap_or_else(|error| panic!("{error}")).shown(), to);
        }
        for (invalid, expected) in
            [("ftp://h/", "unsupported protocol scheme \"ftp\""), ("http://h:x/", "Location"), ("mailto:a@b", "mailto")]
        {
            assert!(from.join(invalid).err().is_some_and(|error| error.contains(expected)), "{invalid}");
        }
        assert!(is_relative("/x") && is_relative("x") && !is_relative("http://h/"));
    }
}

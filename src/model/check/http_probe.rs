//! Request of an HTTP check.

use std::{borrow::Cow, fmt};

use super::ProbeTls;
use crate::model::FieldError;

/// Maximum length of a URL in bytes.
const MAX_URL_BYTES: usize = 8 * 1024;
/// Maximum length of a method in bytes.
const MAX_METHOD_BYTES: usize = 64;
/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 1_024;
/// Maximum length of the names and values of all headers together, in bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Maximum length of a body in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// HTTP request of a check. A response with status 2xx is passing, 429 is warning, and any other result is critical.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// URL as it was given, with the scheme `http` or `https`. A user and password in it are sent as basic authentication.
    pub url: Box<str>,
    /// Method of the request: `GET`.
    pub method: Box<str>,
    /// Headers of the request, in the given order. A name may occur more than once.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// Body of the request.
    pub body: Box<str>,
    /// True to use the status of a redirect itself instead of following it.
    pub disable_redirects: bool,
    /// TLS settings, for `https`.
    pub tls: ProbeTls,
}

impl HttpProbe {
    /// Returns a GET of this URL, without headers or a body.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self {
            url: url.into(),
            method: "GET".into(),
            headers: Box::default(),
            body: Box::default(),
            disable_redirects: false,
            tls: ProbeTls::default(),
        }
    }

    /// Sets the method. An empty one means GET.
    #[must_use]
    pub fn with_method(self, method: &str) -> Self {
        if method.is_empty() { self } else { Self { method: method.into(), ..self } }
    }

    /// Returns the URL without its password, for messages and logs.
    #[must_use]
    pub fn shown_url(&self) -> Cow<'_, str> {
        without_password(&self.url)
    }

    /// Returns an error if the request cannot be stored or sent. The host of the URL is resolved only when the check runs.
    pub(super) fn validate(&self) -> Result<(), FieldError> {
        self.validate_url()?;
        if self.method.is_empty() || self.method.len() > MAX_METHOD_BYTES || !self.method.bytes().all(is_token) {
            let hint = "use an HTTP method such as GET or HEAD, of at most 64 bytes";
            return Err(FieldError::new("check.method", &self.method, "is not a method", hint));
        }
        if self.body.len() > MAX_BODY_BYTES {
            let problem = format!("is {} bytes long", self.body.len());
            return Err(FieldError::without_value("check.body", problem, "send at most 65536 bytes"));
        }
        let size: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.headers.len() > MAX_HEADERS || size > MAX_HEADER_BYTES {
            let problem = format!("has {} headers of {size} bytes", self.headers.len());
            return Err(FieldError::without_value(
                "check.header",
                problem,
                "give at most 1024 headers of 65536 bytes in all",
            ));
        }
        for (name, value) in &self.headers {
            if name.is_empty() || !name.bytes().all(is_token) {
                let hint = "write letters, digits and any of !#$%&'*+-.^_`|~";
                return Err(FieldError::new("check.header", name, "is not a header name", hint));
            }
            if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 127) {
                let hint = "remove line breaks and other control characters from it";
                return Err(FieldError::new("check.header", name, "has a value that cannot be sent", hint));
            }
        }
        Ok(())
    }

    fn validate_url(&self) -> Result<(), FieldError> {
        let authority = authority(&self.url).map(|(start, end)| &self.url[start..end]).unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let scheme = self.url.split("://").next().unwrap_or_default();
        let known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        let spaced = |letter: char| letter.is_whitespace() || letter.is_control();
        if !known || host.is_empty() || self.url.len() > MAX_URL_BYTES || self.url.contains(spaced) {
            let hint = "write http:// or https:// with a host, such as http://127.0.0.1:8080/health";
            return Err(FieldError::new("check.http", &self.shown_url(), "is not a URL that can be requested", hint));
        }
        Ok(())
    }
}

/// Omits possible secrets: the password of the URL, the values of headers, the body.
impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HttpProbe")
            .field("url", &self.shown_url())
            .field("method", &self.method)
            .field("headers", &headers)
            .field("body_bytes", &self.body.len())
            .field("disable_redirects", &self.disable_redirects)
            .field("tls", &self.tls)
            .finish()
    }
}

/// Returns whether a byte may occur in a token of RFC 9110. Methods and header names are tokens.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns start and end of the authority in a URL: user, password, host and port.
fn authority(url: &str) -> Option<(usize, usize)> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    Some((start, end))
}

/// Replaces the password in a URL by `***`, as Go does in messages. Returns text that is not a URL unchanged.
fn without_password(url: &str) -> Cow<'_, str> {
    let Some((start, end)) = authority(url) else { return Cow::Borrowed(url) };
    let Some((user_info, host)) = url[start..end].rsplit_once('@') else { return Cow::Borrowed(url) };
    let Some((user, _)) = user_info.split_once(':') else { return Cow::Borrowed(url) };
    Cow::Owned(format!("{}{user}:***@{host}{}", &url[..start], &url[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_with_any_case_and_user_is_valid_and_others_are_rejected() {
        for good in ["HTTP://user:secret@127.0.0.1:80/e", "hTTps://[::1]:8443", "http://a_b?x=1#y", "http://h/ü|{}"] {
            assert_eq!(HttpProbe::get(good).validate(), Ok(()), "{good}");
        }
        let long = format!("http://h/{}", "x".repeat(MAX_URL_BYTES));
        for bad in ["ftp://x", "http://", "http:///x", "http://user:secret@/", "x", "http://a b/", "http://h/\n", &long]
        {
            let error = HttpProbe::get(bad).validate().unwrap_err().to_string();
            assert!(error.contains("is not a URL") && !error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn header_method_or_body_that_is_too_long_or_breaks_the_request_is_rejected() {
        let with = |headers: Vec<(String, String)>| HttpProbe {
            headers: headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..HttpProbe::get("http://h/")
        };
        let many = |count: usize| with((0..count).map(|n| (format!("x-{n}"), "v\tü".to_owned())).collect());
        assert_eq!(many(150).validate(), Ok(()));
        assert!(many(MAX_HEADERS + 1).validate().is_err());
        assert!(with(vec![("x".into(), "y".repeat(MAX_HEADER_BYTES))]).validate().is_err());
        for (name, value) in [("", "v"), ("a b", "v"), ("a:", "v"), ("ü", "v"), ("a", "v\r\nb: c"), ("a", "\0")] {
            assert!(with(vec![(name.into(), value.into())]).validate().is_err(), "{name:?}: {value:?}");
        }
        for good in ["HEAD", "get", "PROPFIND", "M-SEARCH"] {
            assert_eq!(HttpProbe::get("http://h/").with_method(good).validate(), Ok(()), "{good}");
        }
        for bad in ["GET /x", "G\r\nE", "Gët", &"X".repeat(MAX_METHOD_BYTES + 1)] {
            assert!(HttpProbe::get("http://h/").with_method(bad).validate().is_err(), "{bad}");
        }
        let body = |size: usize| HttpProbe { body: "x".repeat(size).into(), ..HttpProbe::get("http://h/") };
        assert_eq!(body(MAX_BODY_BYTES).validate(), Ok(()));
        assert!(body(MAX_BODY_BYTES + 1).validate().is_err());
    }

    #[test]
    fn messages_omit_passwords_header_values_and_bodies() {
        for (url, shown) in [
            ("HTTP://user:secret@h:1/e?a@b", "HTTP://user:***@h:1/e?a@b"),
            ("http://user:se@cret:x@h", "http://user:***@h"),
            ("http://user@h/", "http://user@h/"),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("no url", "no url"),
        ] {
            assert_eq!(HttpProbe::get(url).shown_url(), shown);
        }
        let probe = HttpProbe {
            headers: [("Authorization".into(), "Bearer secret".into())].into(),
            body: "secret".into(),
            ..HttpProbe::get("http://user:secret@h/")
        };
        let shown = format!("{probe:?}");
        assert!(shown.contains("Authorization") && !shown.contains("secret"), "{shown}");
    }
}

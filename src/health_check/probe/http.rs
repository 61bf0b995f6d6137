//! Probes with HTTP requests. Redirects are followed as by Go's client, and each is subject to the policy for targets. Connections are
//! not reused, and responses are read up to a limit.

use std::{borrow::Cow, future::poll_fn, net::IpAddr, pin::Pin};

use ::http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{
        ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
        CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, WWW_AUTHENTICATE,
    },
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
    ext::ReasonPhrase,
};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::{ProbeOutcome, ProbeStream, ProbeUrl, Prober};
use crate::{
    health_check::url::is_relative,
    model::{CheckStatus, HttpProbe},
};

/// Maximum number of requests of one probe, including redirects, as in Go's client.
const MAX_REQUESTS: usize = 10;
/// Maximum bytes of the head of a response.
const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Maximum number of headers of a response.
const MAX_HEAD_HEADERS: usize = 2_048;
/// Maximum bytes of a response's body that are read. The output shows the last of them.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Maximum bytes of the target of a redirect.
const MAX_LOCATION_BYTES: usize = 8 * 1024;
/// Maximum bytes of the reason phrase in the output.
const MAX_REASON_BYTES: usize = 128;

/// Returns whether a header is about the connection or the framing of the body. Such headers of a check are not sent: with a second
/// `Content-Length`, for example, the target could read a different request than the one that is sent.
fn is_connection_header(name: &HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

/// Returns whether a header carries credentials, which are not sent to the target of a redirect to another host or port.
fn is_credential_header(name: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE].contains(name)
        || name.as_str() == "cookie2"
}

/// Returns whether a header describes the body. Such headers are left out after a redirect that drops the body.
fn is_body_header(name: &HeaderName) -> bool {
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE].contains(name)
}

/// Returns the operation as in the errors of Go's client: `Get "http://web/"`.
pub(super) fn operation(method: &str, url: &str) -> String {
    let (first, rest) = method.split_at(method.floor_char_boundary(1));
    format!("{first}{} \"{url}\"", rest.to_lowercase())
}

impl Prober {
    /// Sends a request and follows its redirects. `limit`: maximum bytes of the body in the output.
    pub(super) async fn probe_http(&self, probe: &HttpProbe, limit: usize) -> ProbeOutcome {
        match self.send_following_redirects(probe).await {
            Ok(response) => {
                let request = format!("HTTP {} {}", probe.method, probe.url);
                ProbeOutcome::Response(ProbeResponse { request, response, limit })
            }
            Err((url, error)) => {
                ProbeOutcome::Complete((CheckStatus::Critical, format!("{}: {error}", operation(&probe.method, &url))))
            }
        }
    }

    /// Returns the last response, or the URL of the request that failed, and the error.
    async fn send_following_redirects(&self, probe: &HttpProbe) -> Result<Response<Incoming>, (String, String)> {
        let mut request = ProbeRequest::first(probe).map_err(|error| (probe.shown_url().into_owned(), error))?;
        let mut first = None;
        for _ in 0..MAX_REQUESTS {
            let failed = |error| (request.url.shown(), error);
            let (response, address) = self.send(&request, first).await.map_err(failed)?;
            first.get_or_insert(address);
            match request.redirected(&response).map_err(failed)? {
                Some(next) => request = next,
                None => return Ok(response),
            }
        }
        Err((request.url.shown(), format!("stopped after {MAX_REQUESTS} redirects")))
    }

    /// Sends one request. `first`: for a redirect, the address of the probe's first request.
    async fn send(
        &self,
        request: &ProbeRequest<'_>,
        first: Option<IpAddr>,
    ) -> Result<(Response<Incoming>, IpAddr), String> {
        let message = request.message()?;
        let tls = request.url.is_https().then_some(&request.probe.tls);
        let (stream, address) = self.connect(&request.url.target(), tls, &[], first).await?;
        Ok((send(stream, message).await?, address))
    }
}

/// Request of a probe: the first one, or the target of a redirect.
struct ProbeRequest<'a> {
    probe: &'a HttpProbe,
    url: ProbeUrl,
    method: Method,
    /// False once a redirect has turned the request into a GET.
    with_body: bool,
    /// False once a redirect has led to another host or port.
    with_credentials: bool,
    /// Value of the header `Host`, if the check sets one and no redirect has led to another host.
    host: Option<HeaderValue>,
}

impl<'a> ProbeRequest<'a> {
    fn first(probe: &'a HttpProbe) -> Result<Self, String> {
        let method = Method::from_bytes(probe.method.as_bytes());
        let host = probe.headers.iter().find(|(name, value)| name.eq_ignore_ascii_case("host") && !value.is_empty());
        Ok(Self {
            probe,
            url: ProbeUrl::parse(&probe.url)?,
            method: method.map_err(|_| format!("net/http: invalid method {:?}", probe.method))?,
            with_body: true,
            with_credentials: true,
            host: host.map(|(_, value)| header_value(value)).transpose()?,
        })
    }

    /// Returns the request that a response redirects to. `None`: the response is the last one.
    fn redirected(&self, response: &Response<Incoming>) -> Result<Option<Self>, String> {
        let keeps_method = match response.status() {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => return Ok(None),
        };
        let location = response.headers().get(LOCATION).filter(|location| !location.is_empty());
        let Some(location) = location.filter(|_| !self.probe.disable_redirects) else { return Ok(None) };
        if location.len() > MAX_LOCATION_BYTES {
            return Err(format!("redirect to a URL of {} bytes: the limit is {MAX_LOCATION_BYTES}", location.len()));
        }
        let location = String::from_utf8_lossy(location.as_bytes());
        let url = self.url.join(&location)?;
        let keeps_host = is_relative(&location) && url.authority() == self.url.authority();
        Ok(Some(Self {
            probe: self.probe,
            method: if keeps_method || self.method == Method::HEAD { self.method.clone() } else { Method::GET },
            with_body: self.with_body && keeps_method,
            with_credentials: self.with_credentials && self.url.shares_credentials_with(&url),
            host: self.host.clone().filter(|_| keeps_host),
            url,
        }))
    }

    /// Builds the message that is sent.
    fn message(&self) -> Result<Request<String>, String> {
        let body = if self.with_body { self.probe.body.to_string() } else { String::new() };
        let length = body.len();
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            self.url.path_and_query().parse().map_err(|error| format!("invalid path in request URL: {error}"))?;
        let headers = request.headers_mut();
        let host = match &self.host {
            Some(host) => host.clone(),
            None => header_value(&self.url.authority())?,
        };
        headers.insert(HOST, host);
        self.copy_headers(headers)?;
        let defaults =
            [(USER_AGENT, "Callboard Health Check"), (ACCEPT, "text/plain, text/*, */*"), (CONNECTION, "close")];
        for (name, value) in defaults {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        // Like Go, sends the length of an empty body if requests with this method usually have one.
        if length > 0 || [Method::POST, Method::PUT, Method::PATCH].contains(&self.method) {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if !headers.contains_key(AUTHORIZATION)
            && let Some(credentials) = self.url.credentials()
        {
            headers.insert(AUTHORIZATION, credentials);
        }
        Ok(request)
    }

    /// Copies the headers of the check that may be sent with this request.
    fn copy_headers(&self, headers: &mut HeaderMap) -> Result<(), String> {
        for (name, value) in &self.probe.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
            let is_sent = name != HOST
                && !is_connection_header(&name)
                && (self.with_credentials || !is_credential_header(&name))
                && (self.with_body || !is_body_header(&name));
            if is_sent {
                headers.append(name, header_value(value)?);
            }
        }
        Ok(())
    }
}

/// Converts the value of a header. Like Go, trims white space around it, and allows all bytes that are not ASCII.
fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.trim().as_bytes()).map_err(|error| error.to_string())
}

/// Response whose body has not been read yet.
pub(super) struct ProbeResponse {
    /// Method and URL, for the output.
    request: String,
    response: Response<Incoming>,
    /// Maximum bytes of the body in the output.
    limit: usize,
}

impl ProbeResponse {
    /// Reads the body, and returns status and output. As in Consul, only the status code counts, even if the body is incomplete.
    pub(super) async fn read(self, deadline: Pin<&mut Sleep>) -> (CheckStatus, String) {
        let code = self.response.status();
        let status = match code.as_u16() {
            200..=299 => CheckStatus::Passing,
            429 => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        };
        let reason = reason_phrase(&self.response);
        let reason = if reason.is_empty() { reason } else { format!(" {reason}").into() };
        let request = self.request;
        let body = body_end(self.response.into_body(), self.limit, deadline).await;
        (status, format!("{request}: {}{reason} Output: {body}", code.as_u16()))
    }
}

/// Returns the reason phrase of a response, or the standard one of its code.
fn reason_phrase(response: &Response<Incoming>) -> Cow<'static, str> {
    match response.extensions().get::<ReasonPhrase>() {
        Some(sent) => {
            let sent = sent.as_bytes();
            let sent = &sent[..sent.len().min(MAX_REASON_BYTES)];
            Cow::Owned(String::from_utf8_lossy(sent).trim().to_owned())
        }
        None => Cow::Borrowed(response.status().canonical_reason().unwrap_or_default()),
    }
}

async fn send(stream: ProbeStream, request: Request<String>) -> Result<Response<Incoming>, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEAD_HEADERS).title_case_headers(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // The task ends when the response is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Returns the last bytes of the part of a body that arrives before the timeout, as Consul does.
async fn body_end(mut body: Incoming, limit: usize, mut deadline: Pin<&mut Sleep>) -> String {
    let (mut end, mut read) = (Vec::new(), 0);
    while read < MAX_BODY_BYTES {
        let frame = tokio::select! {
            frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => frame,
            () = &mut deadline => break,
        };
        let Some(Ok(frame)) = frame else { break };
        if let Ok(data) = frame.into_data() {
            read += data.len();
            end.extend_from_slice(&data[data.len().saturating_sub(limit)..]);
            end.drain(..end.len().saturating_sub(limit));
        }
    }
    if read > end.len() {
        // The first character may be incomplete.
        let rest = end.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
        end.drain(..rest);
    }
    let text = String::from_utf8_lossy(&end);
    text[text.ceil_char_boundary(text.len().saturating_sub(limit))..].to_owned()
}

//! HTTP requests. Redirects are followed as Go's client follows them, each by the same rules as the first request. No connection is
//! kept, and an answer is read up to a bound.

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

/// Most requests of one probe: the first, and those that redirects lead to. As in Go's client.
const MAX_REQUESTS: usize = 10;
/// Most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 256 * 1024;
/// Most headers of an answer.
const MAX_HEAD_HEADERS: usize = 2_048;
/// Most bytes that are read of an answer's body. The last of them are shown.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Longest target of a redirect, in bytes.
const MAX_LOCATION_BYTES: usize = 8 * 1024;
/// Most bytes that are shown of an answer's reason phrase.
const MAX_REASON_BYTES: usize = 128;

/// Headers that belong to the connection, or tell how the body is framed. Those of a check are not sent: we write our own, and a
/// target that believed others would read another request than the one we send.
fn is_of_connection(name: &HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

/// Headers that carry credentials. They do not follow a redirect to another host or port.
fn is_credential(name: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE].contains(name)
        || name.as_str() == "cookie2"
}

/// Headers that tell of a body. They are left out once a redirect has dropped it.
fn is_of_body(name: &HeaderName) -> bool {
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE].contains(name)
}

/// What a request was about to do, as Go's errors begin: `Get "http://web/"`.
pub(super) fn operation(method: &str, url: &str) -> String {
    let (first, rest) = method.split_at(method.floor_char_boundary(1));
    format!("{first}{} \"{url}\"", rest.to_lowercase())
}

impl Prober {
    /// Sends a request and those that its redirects lead to. `limit`: most bytes of the last answer's body that are shown.
    pub(super) async fn request(&self, probe: &HttpProbe, limit: usize) -> ProbeOutcome {
        match self.follow(probe).await {
            Ok(answer) => {
                let request = format!("HTTP {} {}", probe.method, probe.url);
                ProbeOutcome::Answered(ProbeResponse { request, answer, limit })
            }
            Err((url, error)) => {
                ProbeOutcome::Found((CheckStatus::Critical, format!("{}: {error}", operation(&probe.method, &url))))
            }
        }
    }

    /// Returns the last answer, or the URL whose request failed, and why.
    async fn follow(&self, probe: &HttpProbe) -> Result<Response<Incoming>, (String, String)> {
        let mut hop = ProbeRequest::first(probe).map_err(|error| (probe.shown_url().into_owned(), error))?;
        let mut first = None;
        for _ in 0..MAX_REQUESTS {
            let failed = |error| (hop.url.shown(), error);
            let (answer, address) = self.send(&hop, first).await.map_err(failed)?;
            first.get_or_insert(address);
            match hop.next(&answer).map_err(failed)? {
                Some(next) => hop = next,
                None => return Ok(answer),
            }
        }
        Err((hop.url.shown(), format!("stopped after {MAX_REQUESTS} redirects")))
    }

    /// Sends one request. `first`: for a redirect, the address that the first request went to.
    async fn send(
        &self,
        hop: &ProbeRequest<'_>,
        first: Option<IpAddr>,
    ) -> Result<(Response<Incoming>, IpAddr), String> {
        let request = hop.request()?;
        let tls = hop.url.is_https().then_some(&hop.probe.tls);
        let (stream, address) = self.connect(&hop.url.target(), tls, &[], first).await?;
        Ok((send(stream, request).await?, address))
    }
}

/// One request of a probe.
struct ProbeRequest<'a> {
    probe: &'a HttpProbe,
    url: ProbeUrl,
    method: Method,
    /// False once a redirect has turned the request into a GET.
    with_body: bool,
    /// False once a redirect has led to another host or port.
    with_credentials: bool,
    /// Header `Host`, where the check gives one that still holds.
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

    /// The request that an answer leads to. `None`: the answer itself counts.
    fn next(&self, answer: &Response<Incoming>) -> Result<Option<Self>, String> {
        let keeps_method = match answer.status() {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            _ => return Ok(None),
        };
        let location = answer.headers().get(LOCATION).filter(|location| !location.is_empty());
        let Some(location) = location.filter(|_| !self.probe.disable_redirects) else { return Ok(None) };
        if location.len() > MAX_LOCATION_BYTES {
            return Err(format!("the redirect leads to a URL of {} bytes: at most 8192 are followed", location.len()));
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

    fn request(&self) -> Result<Request<String>, String> {
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
        // Go sends the length of an empty body where the method is one that mostly has a body.
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

    /// Copies those headers of the check that may be sent with this request.
    fn copy_headers(&self, headers: &mut HeaderMap) -> Result<(), String> {
        for (name, value) in &self.probe.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
            let kept = name != HOST
                && !is_of_connection(&name)
                && (self.with_credentials || !is_credential(&name))
                && (self.with_body || !is_of_body(&name));
            if kept {
                headers.append(name, header_value(value)?);
            }
        }
        Ok(())
    }
}

/// Go trims what is around a value, and sends the rest as it is.
fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.trim().as_bytes()).map_err(|error| error.to_string())
}

/// An answer that has begun.
pub(super) struct ProbeResponse {
    request: String,
    answer: Response<Incoming>,
    limit: usize,
}

impl ProbeResponse {
    /// Judges the answer. As in Consul, its status decides, and of the body there may be less than was to come.
    pub(super) async fn read(self, over: Pin<&mut Sleep>) -> (CheckStatus, String) {
        let status = self.answer.status();
        let verdict = match status.as_u16() {
            200..=299 => CheckStatus::Passing,
            429 => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        };
        let reason = reason_phrase(&self.answer);
        let reason = if reason.is_empty() { reason } else { format!(" {reason}").into() };
        let request = self.request;
        let body = body_end(self.answer.into_body(), self.limit, over).await;
        (verdict, format!("{request}: {}{reason} Output: {body}", status.as_u16()))
    }
}

/// The reason phrase as it was sent.
fn reason_phrase(answer: &Response<Incoming>) -> Cow<'static, str> {
    match answer.extensions().get::<ReasonPhrase>() {
        Some(sent) => {
            let sent = sent.as_bytes();
            let sent = &sent[..sent.len().min(MAX_REASON_BYTES)];
            Cow::Owned(String::from_utf8_lossy(sent).trim().to_owned())
        }
        None => Cow::Borrowed(answer.status().canonical_reason().unwrap_or_default()),
    }
}

async fn send(stream: ProbeStream, request: Request<String>) -> Result<Response<Incoming>, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEAD_HEADERS).title_case_headers(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the answer is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// The end of a body, as far as it has come until then: Consul shows the last bytes, not the first.
async fn body_end(mut body: Incoming, limit: usize, mut over: Pin<&mut Sleep>) -> String {
    let (mut end, mut read) = (Vec::new(), 0);
    while read < MAX_BODY_BYTES {
        let frame = tokio::select! {
            frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => frame,
            () = &mut over => break,
        };
        let Some(Ok(frame)) = frame else { break };
        if let Ok(data) = frame.into_data() {
            read += data.len();
            end.extend_from_slice(&data[data.len().saturating_sub(limit)..]);
            end.drain(..end.len().saturating_sub(limit));
        }
    }
    if read > end.len() {
        // A character that was cut in two is left out.
        let rest = end.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
        end.drain(..rest);
    }
    let text = String::from_utf8_lossy(&end);
    text[text.ceil_char_boundary(text.len().saturating_sub(limit))..].to_owned()
}

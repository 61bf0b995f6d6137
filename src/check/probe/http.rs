//! A GET. No redirect is followed, no connection kept, and of the answer no more is read than is shown.

use std::{future::poll_fn, pin::Pin};

use ::http::{
    Request, Response, Uri,
    header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
    uri::InvalidUri,
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::{Made, Prober, Stream};
use crate::model::{ProbeTls, Target, Verdict};

/// How much of an answer is shown, in bytes.
const SHOWN: usize = 4_096;
/// Most bytes of an answer's head.
const HEAD: usize = 16 * 1024;

impl Prober {
    pub(super) async fn get(&self, url: &str, headers: &[(Box<str>, Box<str>)], tls: &ProbeTls) -> Made {
        match self.request(url, headers, tls).await {
            Ok(answer) => Made::Answered(Answered { url: url.to_owned(), answer }),
            Err(error) => Made::Found((Verdict::Critical, format!("Get \"{url}\": {error}"))),
        }
    }

    async fn request(
        &self,
        url: &str,
        headers: &[(Box<str>, Box<str>)],
        tls: &ProbeTls,
    ) -> Result<Response<Incoming>, String> {
        let uri = parse(url)?;
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or("no host in request URL")?;
        let target = Target {
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        };
        let stream = self.connect(&target, secure.then_some(tls), &[]).await?;
        let request = request(&uri, headers)?;
        send(stream, request).await
    }
}

/// An answer that has begun.
pub(super) struct Answered {
    url: String,
    answer: Response<Incoming>,
}

impl Answered {
    /// What it says. As in Consul, that is its status, and of the rest there may be less than was to come.
    pub(super) async fn read(self, over: Pin<&mut Sleep>) -> (Verdict, String) {
        let status = self.answer.status();
        let verdict = match status.as_u16() {
            200..=299 => Verdict::Passing,
            429 => Verdict::Warning,
            _ => Verdict::Critical,
        };
        let reason = status.canonical_reason().unwrap_or_default();
        let body = beginning(self.answer.into_body(), over).await;
        (verdict, format!("HTTP GET {}: {} {reason} Output: {body}", self.url, status.as_u16()))
    }
}

/// Go takes a query without a path, and so do programs that write URLs for it.
fn parse(url: &str) -> Result<Uri, String> {
    let url = url.split('#').next().unwrap_or_default();
    let host = url.find("://").map_or(0, |at| at + 3);
    let bare = url[host..].find(['/', '?']).map(|at| host + at).filter(|at| url[*at..].starts_with('?'));
    let parsed = match bare {
        Some(at) => format!("{}/{}", &url[..at], &url[at..]).parse(),
        None => url.parse(),
    };
    parsed.map_err(|error: InvalidUri| error.to_string())
}

fn request(uri: &Uri, headers: &[(Box<str>, Box<str>)]) -> Result<Request<String>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path).body(String::new()).map_err(|error| error.to_string())?;
    let own = [
        (HOST, uri.authority().map_or("", |authority| authority.as_str())),
        (USER_AGENT, "Callboard Health Check"),
        (ACCEPT, "text/plain, text/*, */*"),
        (CONNECTION, "close"),
    ];
    let map = request.headers_mut();
    for (name, value) in own {
        map.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
    }
    let mut given: Vec<HeaderName> = Vec::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        if !given.contains(&name) {
            map.insert(name.clone(), value);
            given.push(name);
        } else if name != HOST {
            map.append(name, value);
        }
    }
    Ok(request)
}

async fn send(stream: Stream, request: Request<String>) -> Result<Response<Incoming>, String> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends when the answer is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// As much of an answer as is shown, and has come until then.
async fn beginning(mut body: Incoming, mut over: Pin<&mut Sleep>) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SHOWN {
        let frame = tokio::select! {
            frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => frame,
            () = &mut over => break,
        };
        let Some(Ok(frame)) = frame else { break };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(SHOWN - bytes.len())]);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! A GET. No redirect is followed, no connection kept, and of the answer no more is read than is shown.

use std::{future::poll_fn, pin::Pin};

use ::http::{
    Request, Response, Uri,
    header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;

use super::{Prober, Stream};
use crate::model::{ProbeTls, Target, Verdict};

/// How much of an answer is shown, in bytes.
const SHOWN: usize = 4_096;
/// Most bytes of an answer's head.
const HEAD: usize = 16 * 1024;

impl Prober {
    pub(super) async fn get(&self, url: &str, headers: &[(Box<str>, Box<str>)], tls: &ProbeTls) -> (Verdict, String) {
        match self.request(url, headers, tls).await {
            Ok(answer) => {
                let status = answer.status();
                let verdict = match status.as_u16() {
                    200..=299 => Verdict::Passing,
                    429 => Verdict::Warning,
                    _ => Verdict::Critical,
                };
                let reason = status.canonical_reason().unwrap_or_default();
                let body = beginning(answer.into_body()).await;
                (verdict, format!("HTTP GET {url}: {} {reason} Output: {body}", status.as_u16()))
            }
            Err(error) => (Verdict::Critical, format!("Get \"{url}\": {error}")),
        }
    }

    async fn request(
        &self,
        url: &str,
        headers: &[(Box<str>, Box<str>)],
        tls: &ProbeTls,
    ) -> Result<Response<Incoming>, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
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
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        map.insert(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
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

/// As much of an answer as is shown.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < SHOWN
        && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(SHOWN - bytes.len())]);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

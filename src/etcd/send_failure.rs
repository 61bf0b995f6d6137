//! Failures of connections.

use std::{error::Error, fmt};

use http::Request;
use hyper::client::conn::TrySendError;
use tonic::body::Body;

/// Request without a response, because its connection failed.
#[derive(Debug)]
pub(super) struct SendFailure {
    /// True if the request was not sent, or the member reported that it did not process it.
    pub(super) is_unsent: bool,
    pub(super) reason: String,
}

impl fmt::Display for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for SendFailure {}

impl SendFailure {
    pub(super) fn new(mut error: TrySendError<Request<Body>>) -> Self {
        let returned = error.take_message().is_some();
        let error = error.into_error();
        let is_unsent = returned || is_refused(&error);
        Self { is_unsent, reason: innermost(&error) }
    }
}

/// Returns true if the member refused the stream, which it does before it processes anything of it.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Returns the message of the innermost source, which names the cause.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().to_lowercase()
}

//! Status of calls whose connection or stream failed, or whose time is over.

use std::error::Error;

use tonic::{Code, Status};

/// Returns the status of a call that failed with this error, by gRPC's table of HTTP/2 errors. A broken connection is
/// UNAVAILABLE.
pub(super) fn status_of(error: hyper::Error, authority: &str) -> Status {
    let (code, cause) = describe(&error);
    let mut status = Status::new(code, format!("{authority}: {cause}"));
    status.set_source(std::sync::Arc::new(error));
    status
}

pub(super) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the call took longer than its deadline, or than the timeout of the service's policy")
}

fn describe(error: &hyper::Error) -> (Code, String) {
    let mut innermost: &(dyn Error + 'static) = error;
    let mut code = Code::Unavailable;
    loop {
        if let Some(error) = innermost.downcast_ref::<h2::Error>() {
            // The instance closes the connection and has not processed the request.
            let is_closing = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            code = error.reason().filter(|_| !is_closing).map_or(code, code_of);
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => return (code, innermost.to_string()),
        }
    }
}

fn code_of(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

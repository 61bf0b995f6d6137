//! hyper's view of the routes: gives each request its connection, and counts it while it is open.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use http::{HeaderMap, Request, Response, header::USER_AGENT};
use hyper::body::Incoming;
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::{
    Connection,
    paced_body::{OpenStream, PacedBody},
};

/// Extension of an endless answer, whose parts are shared by several streams.
#[derive(Debug, Clone, Copy)]
pub struct EndlessBody;

/// Returns the `user-agent` of a request, or an empty text.
#[must_use]
pub fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default()
}

/// Serves the requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct RequestService {
    pub(super) routes: Routes,
    pub(super) connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for RequestService {
    type Response = Response<PacedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let stream = OpenStream::new(&self.connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let response = self.routes.clone().call(request);
        Box::pin(async move {
            let response = response.await?;
            let has_end = response.extensions().get::<EndlessBody>().is_none();
            Ok(response.map(|body| PacedBody::new(body, has_end, stream)))
        })
    }
}

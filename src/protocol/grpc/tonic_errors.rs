//! Errors of tonic that occur before a handler runs: a message that is too large, not protobuf, missing or incomplete, and an unknown
//! method.
//!
//! tonic reports them without details. Here they become [`ApiError`]s: a code that tells client errors from server errors, a
//! reason, and a hint.

use axum::{http::Response, middleware::map_response};
use tonic::{Status, body::Body, service::Routes};

use super::ApiError;
use crate::pb::request_error::RequestError;

/// Adds the conversion of tonic's errors around the routes. `limit`: maximum bytes of a request, for the message.
pub(super) fn layer(routes: Routes, limit: usize) -> Routes {
    let convert = move |response: Response<axum::body::Body>| async move { convert(response, limit) };
    routes.into_axum_router().layer(map_response(convert)).into()
}

fn convert(response: Response<axum::body::Body>, limit: usize) -> Response<axum::body::Body> {
    // An error that occurs before a handler runs has its status in the headers.
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(|status| explain(status, limit)) {
        Some(error) => Status::from(error).into_http::<Body>().map(axum::body::Body::new),
        None => response,
    }
}

/// Returns the error for a status that tonic made. `None`: the status is one of this API, or not an error of a request.
pub(super) fn explain(status: &Status, limit: usize) -> Option<ApiError> {
    RequestError::of(status).map(|error| match error {
        RequestError::TooLarge => ApiError::TooLarge(limit),
        RequestError::Malformed(problem) => ApiError::Malformed(problem),
        RequestError::UnknownMethod => ApiError::UnknownMethod,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use bytes::Bytes;
    use tonic::{Code, server::NamedService, service::Routes};
    use tonic_types::StatusExt;
    use tower::{Service, ServiceExt};

    use super::*;
    use crate::pb::{
        callboard::v1::{
            GetInstanceRequest, GetInstanceResponse, ListInstancesRequest, ListInstancesResponse, ListServicesRequest,
            ListServicesResponse,
        },
        server::discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
    };

    const LIMIT: usize = 64;

    /// Service whose methods are never reached.
    #[derive(Debug)]
    struct Unreachable;

    #[tonic::async_trait]
    impl DiscoveryService for Unreachable {
        async fn list_instances(
            &self,
            _: tonic::Request<ListInstancesRequest>,
        ) -> Result<tonic::Response<ListInstancesResponse>, Status> {
            Err(Status::internal("a handler's own error"))
        }

        async fn get_instance(
            &self,
            _: tonic::Request<GetInstanceRequest>,
        ) -> Result<tonic::Response<GetInstanceResponse>, Status> {
            Err(Status::from(ApiError::ShuttingDown))
        }

        async fn list_services(
            &self,
            _: tonic::Request<ListServicesRequest>,
        ) -> Result<tonic::Response<ListServicesResponse>, Status> {
            Err(Status::unimplemented("compression"))
        }
    }

    /// Sends bytes to a method of tonic's own server and returns the status that comes back.
    async fn status(method: &str, body: &[u8]) -> Status {
        let service = DiscoveryServiceServer::new(Unreachable).max_decoding_message_size(LIMIT);
        let mut routes = layer(Routes::new(service), LIMIT).prepare();
        let name = <DiscoveryServiceServer<Unreachable> as NamedService>::NAME;
        let request = Request::post(format!("/{name}/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::new(axum::body::Body::from(Bytes::copy_from_slice(body))))
            .unwrap();
        let response = ServiceExt::<Request<Body>>::ready(&mut routes).await.unwrap().call(request).await.unwrap();
        Status::from_header_map(response.headers()).unwrap()
    }

    /// Message with a gRPC prefix that states this length.
    fn framed(length: u32, message: &[u8]) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), message].concat()
    }

    #[tokio::test]
    async fn error_before_the_handler_gets_code_reason_and_hint() {
        let too_large = framed(1_000, &[0; 1_000]);
        let not_protobuf = framed(2, &[0xff, 0xff]);
        let incomplete = framed(50, &[10]);
        for (method, body, code, reason) in [
            ("ListInstances", &*too_large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
            ("ListInstances", &not_protobuf, Code::InvalidArgument, "MALFORMED_MESSAGE"),
            ("ListInstances", &incomplete, Code::InvalidArgument, "MALFORMED_MESSAGE"),
            ("ListInstances", &[], Code::InvalidArgument, "MALFORMED_MESSAGE"),
            ("NoSuchMethod", &framed(0, &[]), Code::Unimplemented, "UNKNOWN_METHOD"),
        ] {
            let status = status(method, body).await;
            assert_eq!(status.code(), code, "{method} {body:?}: {status}");
            assert_eq!(status.get_error_details().error_info().unwrap().reason, reason, "{method}: {status}");
            assert!(status.message().contains(": "), "a hint follows the reason: {status}");
        }
    }

    #[tokio::test]
    async fn error_of_a_handler_stays_as_it_is() {
        let empty = framed(0, &[]);
        let internal = status("ListInstances", &empty).await;
        assert_eq!((internal.code(), internal.message()), (Code::Internal, "a handler's own error"));
        let shutting_down = status("GetInstance", &empty).await;
        assert_eq!(shutting_down.get_error_details().error_info().unwrap().reason, "SHUTTING_DOWN");
        let other = status("ListServices", &empty).await;
        assert_eq!((other.code(), other.message()), (Code::Unimplemented, "compression"));
    }
}

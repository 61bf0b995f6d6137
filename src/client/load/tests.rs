//! Tests of the layer, with tokio's clock paused.

use std::{collections::VecDeque, convert::Infallible};

use bytes::Bytes;
use http::HeaderValue;
use tower::{ServiceExt, service_fn};

use super::*;

/// Body of a response: frames that the test chose.
struct Frames(VecDeque<Result<Frame<Bytes>, Infallible>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn status(code: Code) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(code)));
    headers
}

/// Response with one message and these trailers.
fn response(code: Code) -> Response<Frames> {
    let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(status(code))];
    Response::new(Frames(frames.into_iter().map(Ok).collect()))
}

async fn read(body: LoadBody<Frames>) {
    let mut body = std::pin::pin!(body);
    while std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await.is_some() {}
}

/// Makes a call with this response after a time, and returns the response's body.
async fn call(layer: &LoadLayer, path: &str, after: Duration, response: Response<Frames>) -> LoadBody<Frames> {
    let mut response = Some(response);
    let handler = service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move {
            tokio::time::sleep(after).await;
            Ok::<_, Infallible>(response)
        }
    });
    let request = Request::builder().uri(path).body(()).unwrap();
    layer.layer(handler).oneshot(request).await.unwrap().into_body()
}

fn millis(report: &LoadReport) -> Option<u128> {
    report.response_time.and_then(|time| Duration::try_from(time).ok()).map(|time| time.as_millis())
}

#[tokio::test(start_paused = true)]
async fn report_has_the_calls_since_the_last_one() {
    let counters = Arc::new(LoadCounters::default());
    assert!(counters.take_report().is_none(), "nothing measures");
    let layer = LoadLayer::new(&counters).with_capacity(4);
    for (millis, code) in [(10, Code::Ok), (30, Code::Unavailable), (20, Code::NotFound)] {
        read(call(&layer, "/pay.v1.Payments/Pay", Duration::from_millis(millis), response(code)).await).await;
    }
    let open = call(&layer, "/pay.v1.Payments/Pay", Duration::from_millis(100), response(Code::Ok)).await;
    let report = counters.take_report().unwrap();
    assert_eq!((report.requests, report.errors, report.in_flight), (3, 1, 1));
    assert_eq!((millis(&report), report.utilization), (Some(20), 0.25));
    read(open).await;
    let report = counters.take_report().unwrap();
    assert_eq!((report.requests, report.errors, report.in_flight, millis(&report)), (1, 0, 0, Some(100)));
    assert_eq!(millis(&counters.take_report().unwrap()), None, "there was no call");
}

#[tokio::test(start_paused = true)]
async fn status_is_read_from_the_headers_too() {
    let counters = Arc::new(LoadCounters::default());
    let layer = LoadLayer::new(&counters);
    let mut rejected = Response::new(Frames(VecDeque::new()));
    *rejected.headers_mut() = status(Code::Internal);
    read(call(&layer, "/pay.v1.Payments/Pay", Duration::ZERO, rejected).await).await;
    let report = counters.take_report().unwrap();
    assert_eq!((report.requests, report.errors), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn cancelled_call_and_probe_are_not_counted() {
    let counters = Arc::new(LoadCounters::default());
    let layer = LoadLayer::new(&counters);
    let long = call(&layer, "/pay.v1.Payments/Pay", Duration::from_mins(1), response(Code::Ok));
    assert!(tokio::time::timeout(Duration::from_secs(1), long).await.is_err());
    read(call(&layer, "/grpc.health.v1.Health/Check", Duration::ZERO, response(Code::Ok)).await).await;
    let report = counters.take_report().unwrap();
    assert_eq!((report.requests, report.errors, report.in_flight), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn idle_waits_for_the_last_call() {
    let counters = Arc::new(LoadCounters::default());
    let layer = LoadLayer::new(&counters);
    counters.idle().await;
    let body = call(&layer, "/pay.v1.Payments/Pay", Duration::ZERO, response(Code::Ok)).await;
    let ends = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(body);
    };
    let began = super::super::now();
    tokio::join!(counters.idle(), ends);
    assert_eq!(began.elapsed().as_secs(), 1);
}

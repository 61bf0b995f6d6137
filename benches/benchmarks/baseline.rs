//! Baseline: a minimal tonic server with the messages of the contract and no logic, on the runtime that Callboard's workers use.
//!
//! It stores and validates nothing, so the difference to Callboard is the cost of Callboard's own work. Like Callboard it encodes
//! each event once and sends events that arrive together in one message; without that it would not be the faster of the two.

use std::{
    convert::Infallible,
    future::Future,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use anyhow::Result;
use bytes::{BufMut, Bytes};
use callboard::pb::{
    callboard::v1::{self as pb, change::Change, watch_response::Message},
    codec::SmallBuffers,
};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// First revision. It has the encoded length of Callboard's revisions, so that messages and frames have the same sizes.
const FIRST_REVISION: u64 = 1_700_000_000 << 20;

/// Serves until killed.
pub async fn serve() -> Result<()> {
    let incoming = TcpIncoming::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.with_nodelay(Some(true));
    println!("{}", serde_json::json!({ "grpc": incoming.local_addr()?.to_string() }));
    std::io::stdout().flush()?;
    let events_log = Arc::new(BaselineEvents { revision: AtomicU64::new(FIRST_REVISION), ..BaselineEvents::default() });
    let server = Server::builder().add_service(Registry(Arc::clone(&events_log))).add_service(Discovery(events_log));
    Ok(server.serve_with_incoming(incoming).await?)
}

/// State: the encoded events, and the wakers of the watches that wait for the next one.
#[derive(Debug, Default)]
struct BaselineEvents {
    revision: AtomicU64,
    /// Set by the first watch; before, events are not kept.
    watched: AtomicBool,
    events: Mutex<(Vec<Bytes>, Vec<Waker>)>,
}

impl BaselineEvents {
    fn register(&self, request: pb::RegisterRequest) -> pb::RegisterResponse {
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = pb::RegisterResponse {
            lease_id: Bytes::copy_from_slice(&u128::from(revision).to_be_bytes()),
            ttl: request.ttl,
            revision,
        };
        if self.watched.load(Ordering::Relaxed) {
            self.publish(event(request, revision));
        }
        answer
    }

    fn publish(&self, event: Bytes) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.0.push(event);
        events.1.drain(..).for_each(Waker::wake);
    }
}

fn event(request: pb::RegisterRequest, revision: u64) -> Bytes {
    let instance = pb::Instance {
        service: request.service,
        id: request.id,
        addresses: request.addresses,
        tags: request.tags,
        metadata: request.metadata,
        weight: request.weight.unwrap_or(1),
        locality: request.locality,
        status: pb::InstanceStatus::Serving.into(),
        registered_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 1 }),
        registered_revision: revision,
        revision,
        checks: Vec::new(),
    };
    let changes = pb::Changes {
        changes: vec![pb::Change { change: Some(Change::Updated(instance)) }],
        revision,
        resume_token: Bytes::from_static(&[7; 24]),
    };
    pb::WatchResponse { message: Some(Message::Changes(changes)) }.encode_to_vec().into()
}

/// Answers that every lease is held, with the TTL that [`crate::client::instance`] requests.
fn answer(request: pb::KeepAliveRequest) -> pb::KeepAliveResponse {
    let leases = request.heartbeats.into_iter().map(|heartbeat| pb::LeaseReport {
        lease_id: heartbeat.lease_id,
        state: pb::LeaseState::Held.into(),
        time_left: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
    });
    pb::KeepAliveResponse { leases: leases.collect(), notice: pb::Notice::Unspecified.into() }
}

/// Watch with its position in the events.
#[derive(Debug)]
struct Watch {
    events_log: Arc<BaselineEvents>,
    /// Index of the next event; `None` before the watch is synced.
    cursor: Option<usize>,
}

impl Stream for Watch {
    type Item = Result<Vec<Bytes>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let events_log = Arc::clone(&self.events_log);
        let mut events = events_log.events.lock().unwrap_or_else(PoisonError::into_inner);
        let end = events.0.len();
        let message = match self.cursor.replace(end) {
            None => {
                let revision = events_log.revision.load(Ordering::Relaxed);
                let synced = pb::Synced { revision, resume_token: Bytes::from_static(&[7; 24]) };
                vec![pb::WatchResponse { message: Some(Message::Synced(synced)) }.encode_to_vec().into()]
            }
            Some(cursor) if cursor == end => {
                events.1.push(context.waker().clone());
                return Poll::Pending;
            }
            // Concatenated messages merge: repeated fields are appended, and the last revision and token count.
            Some(cursor) => events.0[cursor..].to_vec(),
        };
        Poll::Ready(Some(Ok(message)))
    }
}

/// Codec that writes bytes which are already encoded.
#[derive(Debug, Clone, Copy)]
struct EncodedBytes;

impl Codec for EncodedBytes {
    type Encode = Vec<Bytes>;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = <ProstCodec<pb::WatchRequest, pb::WatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<pb::WatchRequest, _>::raw_decoder(self.buffer_settings())
    }
}

impl Encoder for EncodedBytes {
    type Item = Vec<Bytes>;
    type Error = Status;

    fn encode(&mut self, parts: Vec<Bytes>, wire: &mut EncodeBuf<'_>) -> Result<(), Status> {
        for part in parts {
            wire.put(part);
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(256, 32 * 1024)
    }
}

#[derive(Debug, Clone)]
struct Registry(Arc<BaselineEvents>);

impl NamedService for Registry {
    const NAME: &'static str = "callboard.v1.RegistryService";
}

#[derive(Debug, Clone)]
struct Discovery(Arc<BaselineEvents>);

impl NamedService for Discovery {
    const NAME: &'static str = "callboard.v1.DiscoveryService";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for Registry {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let events_log = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path().ends_with("/KeepAlive") {
                let keep_alive = service_fn(async |request: Request<Streaming<pb::KeepAliveRequest>>| {
                    let answers = request.into_inner().map(|request| request.map(answer));
                    Ok::<_, Status>(Response::new(answers))
                });
                let mut grpc = Grpc::new(SmallBuffers::default());
                return Ok(grpc.streaming(keep_alive, request).await);
            }
            let register = service_fn(move |request: Request<pb::RegisterRequest>| {
                let answer = events_log.register(request.into_inner());
                async move { Ok::<_, Status>(Response::new(answer)) }
            });
            Ok(Grpc::new(SmallBuffers::default()).unary(register, request).await)
        })
    }
}

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let events_log = Arc::clone(&self.0);
        Box::pin(async move {
            let watch = service_fn(move |_: Request<pb::WatchRequest>| {
                events_log.watched.store(true, Ordering::Relaxed);
                let watch = Watch { events_log: Arc::clone(&events_log), cursor: None };
                async move { Ok::<_, Status>(Response::new(watch)) }
            });
            Ok(Grpc::new(EncodedBytes).server_streaming(watch, request).await)
        })
    }
}

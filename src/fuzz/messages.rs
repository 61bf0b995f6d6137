//! A session of calls and streams on the native door, without HTTP/2 below it.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use axum::http::{HeaderValue, Method, Request, Uri, header};
use bytes::Bytes;
use http_body::Body as _;
use prost::Message as _;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service as _;

use super::{
    draw::InputCursor,
    world::{FuzzServer, poll, runtime},
};
use crate::{
    client::WatchReader,
    pb::callboard::v1::{
        Address, DeregisterRequest, Heartbeat, KeepAliveRequest, KeepAliveResponse, ListEventsRequest,
        ListInstancesRequest, ListServicesRequest, ListSubscribersRequest, LoadReport, RegisterRequest,
        RegisterResponse, UpdateInstanceRequest, WatchRequest, WatchResponse,
    },
    transport::Connection,
};

/// Most calls of a session.
const LONGEST: usize = 64;

const REGISTER: &str = "/callboard.v1.RegistryService/Register";
const DEREGISTER: &str = "/callboard.v1.RegistryService/Deregister";
const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";
const UPDATE: &str = "/callboard.v1.RegistryService/UpdateInstance";
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
const INSTANCES: &str = "/callboard.v1.DiscoveryService/ListInstances";
const GET: &str = "/callboard.v1.DiscoveryService/GetInstance";
const SERVICES: &str = "/callboard.v1.DiscoveryService/ListServices";
const SUBSCRIBERS: &str = "/callboard.v1.AdminService/ListSubscribers";
const EVENTS: &str = "/callboard.v1.AdminService/ListEvents";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";
/// All that bytes can be sent to.
const METHODS: &[&str] = &[
    REGISTER,
    DEREGISTER,
    KEEP_ALIVE,
    UPDATE,
    WATCH,
    INSTANCES,
    GET,
    SERVICES,
    SUBSCRIBERS,
    EVENTS,
    CHECK,
    HEALTH,
    "/grpc.health.v1.Health/List",
    REFLECTION,
    "/callboard.v1.RegistryService/Nothing",
];

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// Those whose answer may go on.
const STREAMS: &[&str] = &[KEEP_ALIVE, WATCH, HEALTH, REFLECTION];
const FILTERS: &[&str] = &["", "weight > 1", "\"v1\" in tags", "weight != 2 and status == SERVING"];

/// A stream that is still open.
struct OpenFuzzStream {
    path: &'static str,
    body: Body,
    received: Vec<u8>,
    reader: WatchReader,
    last: Bytes,
}

struct FuzzSession {
    routes: Routes,
    connection: Arc<Connection>,
    /// The last lease that was granted.
    lease: Bytes,
    open: Vec<OpenFuzzStream>,
}

/// Every call is answered, with a status that blames nobody here; every message of a stream can be decoded; and in the
/// end the registry counts right.
pub(super) fn run(input: &[u8]) {
    let runtime = runtime();
    let _within = runtime.enter(); // reflection spawns; what it spawns never runs here
    FuzzServer::visit(|world| {
        let (routes, connection) = (world.grpc.routes.clone(), world.connection(&world.grpc));
        let mut session = FuzzSession { routes, connection, lease: Bytes::new(), open: Vec::new() };
        let mut draw = InputCursor::new(input);
        for _ in 0..LONGEST {
            if draw.is_empty() {
                break;
            }
            session.act(&mut draw);
            session.open.retain_mut(OpenFuzzStream::read);
        }
    });
}

impl FuzzSession {
    fn act(&mut self, draw: &mut InputCursor<'_>) {
        let (path, message) = match draw.below(16) {
            0..3 => {
                let path = draw.one_of(METHODS);
                return self.call(path, raw(draw));
            }
            3 if !self.open.is_empty() => {
                let gone = usize::from(draw.byte()) % self.open.len();
                self.open.swap_remove(gone);
                return;
            }
            3..8 => (REGISTER, Self::register(draw).encode_to_vec()),
            8 => (DEREGISTER, self.deregister(draw).encode_to_vec()),
            9..11 => (KEEP_ALIVE, self.keep_alive(draw).encode_to_vec()),
            11 => (UPDATE, self.update(draw).encode_to_vec()),
            12..14 => (WATCH, watch(draw).encode_to_vec()),
            14 => list(draw),
            _ => {
                let service = draw.one_of(&["", "web", "db", "callboard.v1.AdminService"]).to_owned();
                let request = tonic_health::pb::HealthCheckRequest { service };
                (draw.one_of(&[CHECK, HEALTH]), request.encode_to_vec())
            }
        };
        self.call(path, framed(0, &message));
    }

    /// Makes a call. What its stream says later is read after the next calls.
    fn call(&mut self, path: &'static str, request: Vec<u8>) {
        let mut request = Request::new(Body::new(axum::body::Body::from(request)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let answer = self.routes.call(request);
        let Poll::Ready(Ok(answer)) = poll(pin!(answer)) else { panic!("{path} is not answered at once") };
        let (head, body) = answer.into_parts();
        assert!(head.status.is_success(), "{path}: {}", head.status);
        if let Some(status) = Status::from_header_map(&head.headers) {
            check(path, &status);
        }
        let mut open =
            OpenFuzzStream { path, body, received: Vec::new(), reader: WatchReader::default(), last: Bytes::new() };
        let goes_on = open.read();
        if path == REGISTER
            && let Ok(answer) = RegisterResponse::decode(open.last.clone())
        {
            self.lease = answer.lease_id;
        }
        if goes_on {
            assert!(STREAMS.contains(&path), "{path} does not end");
            self.open.push(open);
        }
    }
}

impl FuzzSession {
    fn register(draw: &mut InputCursor<'_>) -> RegisterRequest {
        let span = |draw: &mut InputCursor<'_>| {
            let seconds = i64::from(draw.number().cast_signed());
            draw.flag().then_some(prost_types::Duration { seconds, nanos: draw.number().cast_signed() })
        };
        let address = |draw: &mut InputCursor<'_>| Address {
            host: word(draw, &["10.0.0.1", "::1", "localhost"]),
            port: u32::from(draw.byte()) << 9,
            name: word(draw, &["", "metrics"]),
        };
        RegisterRequest {
            service: word(draw, &["web", "web-api", "db"]),
            id: word(draw, &["a", "b", "c"]),
            boot_id: word(draw, &["one", "two"]),
            addresses: (0..=draw.below(3)).map(|_| address(draw)).collect(),
            tags: (0..draw.below(3)).map(|_| word(draw, &["v1", "v2"])).collect(),
            metadata: (0..draw.below(3)).map(|_| (word(draw, &["team", "zone"]), word(draw, &["", "x"]))).collect(),
            weight: draw.flag().then(|| u32::from(draw.byte()) << 8 | 1),
            ttl: span(draw),
            disconnect_grace: span(draw),
            replace: draw.flag(),
            starting: draw.flag(),
            ..RegisterRequest::default()
        }
    }

    fn lease(&self, draw: &mut InputCursor<'_>) -> Bytes {
        match draw.below(4) {
            0 => Bytes::copy_from_slice(draw.bytes()),
            1 => Bytes::new(),
            _ => self.lease.clone(),
        }
    }

    fn deregister(&self, draw: &mut InputCursor<'_>) -> DeregisterRequest {
        DeregisterRequest {
            service: word(draw, &["web", "web-api", "db"]),
            id: word(draw, &["a", "b", "c"]),
            lease_id: self.lease(draw),
            boot_id: word(draw, &["", "one"]),
        }
    }

    fn keep_alive(&self, draw: &mut InputCursor<'_>) -> KeepAliveRequest {
        let load = |draw: &mut InputCursor<'_>| LoadReport {
            utilization: f64::from_bits(u64::from(draw.number()) << 32 | u64::from(draw.number())),
            in_flight: draw.number(),
            ..LoadReport::default()
        };
        let beat = |draw: &mut InputCursor<'_>| {
            let lease_id = self.lease(draw);
            Heartbeat { lease_id, load: draw.flag().then(|| load(draw)) }
        };
        KeepAliveRequest { heartbeats: (0..draw.below(4)).map(|_| beat(draw)).collect() }
    }

    fn update(&self, draw: &mut InputCursor<'_>) -> UpdateInstanceRequest {
        const PATHS: &[&str] = &["weight", "draining", "tags", "metadata", "starting"];
        UpdateInstanceRequest {
            service: word(draw, &["web", "web-api", "db"]),
            id: word(draw, &["a", "b", "c"]),
            lease_id: self.lease(draw),
            update_mask: Some(prost_types::FieldMask { paths: vec![word(draw, PATHS), word(draw, PATHS)] }),
            weight: u32::from(draw.byte()),
            draining: draw.flag(),
            starting: draw.flag(),
            tags: vec![word(draw, &["v1", "v2"])],
            metadata: [(word(draw, &["team"]), word(draw, &["", "x"]))].into(),
        }
    }
}

fn watch(draw: &mut InputCursor<'_>) -> WatchRequest {
    let way = draw.byte();
    WatchRequest {
        services: (0..way % 3).map(|_| word(draw, &["web", "db", "web-api"])).collect(),
        prefix: if way & 4 == 0 { String::new() } else { word(draw, &["w", "web"]) },
        everything: way & 8 != 0,
        filter: word(draw, FILTERS),
        resume_token: if draw.flag() { Bytes::copy_from_slice(draw.bytes()) } else { Bytes::new() },
    }
}

fn list(draw: &mut InputCursor<'_>) -> (&'static str, Vec<u8>) {
    let (page_size, page_token) = (u32::from(draw.byte()) % 4, word(draw, &["", "a", "web", "9"]));
    match draw.below(4) {
        0 => {
            let (service, filter) = (word(draw, &["web", "db"]), word(draw, FILTERS));
            let request = ListInstancesRequest { service, filter, page_size, page_token };
            (INSTANCES, request.encode_to_vec())
        }
        1 => {
            let request = ListServicesRequest { prefix: word(draw, &["", "w", "web"]), page_size, page_token };
            (SERVICES, request.encode_to_vec())
        }
        2 => {
            let request = ListSubscribersRequest { service: word(draw, &["", "web"]), page_size, page_token };
            (SUBSCRIBERS, request.encode_to_vec())
        }
        _ => {
            let request = ListEventsRequest { service: word(draw, &["", "web"]), page_size, page_token };
            (EVENTS, request.encode_to_vec())
        }
    }
}

/// One of these words, or any text.
fn word(draw: &mut InputCursor<'_>, usual: &[&str]) -> String {
    let choice = usize::from(draw.byte());
    usual.get(choice % (usual.len() + 1)).map_or_else(|| draw.text(), |word| (*word).to_owned())
}

/// Some bytes as messages, or just bytes.
fn raw(draw: &mut InputCursor<'_>) -> Vec<u8> {
    match draw.below(4) {
        0 => draw.bytes().to_vec(),
        messages => (0..messages).flat_map(|_| framed(draw.below(8) / 7, draw.bytes())).collect(),
    }
}

/// gRPC's prefix, and the message.
fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// What gRPC itself wants to be called internal: a flag that promises compression without saying which.
const FRAMING: &str = "protocol error: ";

/// Nobody is told that it is the registry's fault.
fn check(path: &str, status: &Status) {
    let ours = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    assert!(!ours || status.message().starts_with(FRAMING), "{path}: {status:?}");
    assert!(status.code() == Code::Ok || !status.message().is_empty(), "{path}: {status:?} does not say why");
    assert!(status.message().len() < 2_000, "an answer does not repeat a whole request");
}

impl OpenFuzzStream {
    /// Reads what there is. Whether more may come.
    fn read(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000 {
            match Pin::new(&mut self.body).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                        check(self.path, &status);
                    } else if let Ok(data) = frame.into_data() {
                        self.received.extend(data);
                        self.take_messages();
                    }
                }
                Poll::Ready(Some(Err(error))) => panic!("{}: {error}", self.path),
                Poll::Ready(None) => {
                    assert!(self.received.is_empty(), "{}: half a message", self.path);
                    return false;
                }
                Poll::Pending => return true,
            }
        }
        panic!("{} does not come to rest", self.path)
    }

    fn take_messages(&mut self) {
        while let Some((prefix, rest)) = self.received.split_first_chunk::<5>() {
            let [flag, length @ ..] = *prefix;
            assert_eq!(flag, 0, "{}: compressed", self.path);
            let Some(message) = rest.get(..u32::from_be_bytes(length) as usize) else { return };
            self.last = Bytes::copy_from_slice(message);
            self.received.drain(..prefix.len() + self.last.len());
            let sound = match self.path {
                WATCH => WatchResponse::decode(self.last.clone()).map(|message| drop(self.reader.read(message))),
                KEEP_ALIVE => KeepAliveResponse::decode(self.last.clone()).map(drop),
                _ => Ok(()),
            };
            assert!(sound.is_ok(), "{}: {sound:?}", self.path);
        }
    }
}

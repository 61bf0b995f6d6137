//! Session of gRPC calls and streams, without HTTP/2.

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
    input_cursor::InputCursor,
    server::{FuzzServer, poll, runtime},
    xds,
};
use crate::{
    client::WatchReader,
    pb::{
        callboard::v1::{
            Address, DeregisterRequest, Heartbeat, KeepAliveRequest, KeepAliveResponse, ListEventsRequest,
            ListInstancesRequest, ListServicesRequest, ListWatchersRequest, LoadReport, RegisterRequest,
            RegisterResponse, UpdateInstanceRequest, WatchRequest, WatchResponse,
        },
        envoy::service::{
            discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
            load_stats::v3::LoadStatsResponse,
            status::v3::ClientStatusResponse,
        },
    },
    protocol::xds::{DELTA, LOAD_REPORTS, STATE_OF_THE_WORLD},
    transport::Connection,
};

/// Maximum number of calls of a session.
const MAX_CALLS: usize = 64;

const REGISTER: &str = "/callboard.v1.RegistryService/Register";
const DEREGISTER: &str = "/callboard.v1.RegistryService/Deregister";
const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";
const UPDATE: &str = "/callboard.v1.RegistryService/UpdateInstance";
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
const INSTANCES: &str = "/callboard.v1.DiscoveryService/ListInstances";
const GET: &str = "/callboard.v1.DiscoveryService/GetInstance";
const SERVICES: &str = "/callboard.v1.DiscoveryService/ListServices";
const WATCHERS: &str = "/callboard.v1.AdminService/ListWatchers";
const EVENTS: &str = "/callboard.v1.AdminService/ListEvents";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH: &str = "/grpc.health.v1.Health/Watch";
/// Methods that receive arbitrary bytes.
const METHODS: &[&str] = &[
    REGISTER,
    DEREGISTER,
    KEEP_ALIVE,
    UPDATE,
    WATCH,
    INSTANCES,
    GET,
    SERVICES,
    WATCHERS,
    EVENTS,
    CHECK,
    HEALTH,
    "/grpc.health.v1.Health/List",
    REFLECTION,
    "/callboard.v1.RegistryService/Nothing",
];

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// Methods whose response is a stream.
const STREAMS: &[&str] = &[KEEP_ALIVE, WATCH, HEALTH, REFLECTION];
const FILTERS: &[&str] = &["", "weight > 1", "\"v1\" in tags", "weight != 2 and status == SERVING"];

/// Open response stream.
struct OpenFuzzStream {
    path: &'static str,
    body: Body,
    received: Vec<u8>,
    reader: WatchReader,
    last: Bytes,
}

pub(super) struct FuzzSession {
    routes: Routes,
    connection: Arc<Connection>,
    /// Id of the last granted lease.
    lease: Bytes,
    open: Vec<OpenFuzzStream>,
}

/// Makes calls of any kind. Each must be answered with a status other than an internal error, each message of a stream must decode,
/// and the state of the registry must be consistent afterwards.
pub(super) fn run(input: &[u8]) {
    let runtime = runtime();
    let _within = runtime.enter(); // reflection spawns a task, which never runs here
    FuzzServer::with(|server| {
        let mut session = FuzzSession::new(server);
        let mut input = InputCursor::new(input);
        for _ in 0..MAX_CALLS {
            if input.is_empty() {
                break;
            }
            session.act(&mut input);
            session.open.retain_mut(OpenFuzzStream::read);
        }
    });
}

impl FuzzSession {
    pub(super) fn new(server: &FuzzServer) -> Self {
        let (routes, connection) = (server.grpc.routes.clone(), server.connection(&server.grpc));
        Self { routes, connection, lease: Bytes::new(), open: Vec::new() }
    }

    fn act(&mut self, input: &mut InputCursor<'_>) {
        let (path, message) = match input.below(16) {
            0..3 => {
                let path = input.one_of(METHODS);
                return self.call(path, raw(input));
            }
            3 if !self.open.is_empty() => {
                let gone = usize::from(input.byte()) % self.open.len();
                self.open.swap_remove(gone);
                return;
            }
            3..8 => (REGISTER, Self::register(input).encode_to_vec()),
            8 => (DEREGISTER, self.deregister(input).encode_to_vec()),
            9..11 => (KEEP_ALIVE, self.keep_alive(input).encode_to_vec()),
            11 => (UPDATE, self.update(input).encode_to_vec()),
            12..14 => (WATCH, watch(input).encode_to_vec()),
            14 => list(input),
            _ => {
                let service = input.one_of(&["", "web", "db", "callboard.v1.AdminService"]).to_owned();
                let request = tonic_health::pb::HealthCheckRequest { service };
                (input.one_of(&[CHECK, HEALTH]), request.encode_to_vec())
            }
        };
        self.call(path, framed(0, &message));
    }

    /// Makes a call. Later messages of its stream are read after the next calls.
    pub(super) fn call(&mut self, path: &'static str, request: Vec<u8>) {
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
    fn register(input: &mut InputCursor<'_>) -> RegisterRequest {
        let span = |input: &mut InputCursor<'_>| {
            let seconds = i64::from(input.number().cast_signed());
            input.flag().then_some(prost_types::Duration { seconds, nanos: input.number().cast_signed() })
        };
        let address = |input: &mut InputCursor<'_>| Address {
            host: word(input, &["10.0.0.1", "::1", "localhost"]),
            port: u32::from(input.byte()) << 9,
            name: word(input, &["", "metrics"]),
        };
        RegisterRequest {
            service: word(input, &["web", "web-api", "db"]),
            id: word(input, &["a", "b", "c"]),
            boot_id: word(input, &["one", "two"]),
            addresses: (0..=input.below(3)).map(|_| address(input)).collect(),
            tags: (0..input.below(3)).map(|_| word(input, &["v1", "v2"])).collect(),
            metadata: (0..input.below(3)).map(|_| (word(input, &["team", "zone"]), word(input, &["", "x"]))).collect(),
            weight: input.flag().then(|| u32::from(input.byte()) << 8 | 1),
            ttl: span(input),
            disconnect_grace: span(input),
            replace: input.flag(),
            starting: input.flag(),
            ..RegisterRequest::default()
        }
    }

    fn lease(&self, input: &mut InputCursor<'_>) -> Bytes {
        match input.below(4) {
            0 => Bytes::copy_from_slice(input.bytes()),
            1 => Bytes::new(),
            _ => self.lease.clone(),
        }
    }

    fn deregister(&self, input: &mut InputCursor<'_>) -> DeregisterRequest {
        DeregisterRequest {
            service: word(input, &["web", "web-api", "db"]),
            id: word(input, &["a", "b", "c"]),
            lease_id: self.lease(input),
            boot_id: word(input, &["", "one"]),
        }
    }

    fn keep_alive(&self, input: &mut InputCursor<'_>) -> KeepAliveRequest {
        let load = |input: &mut InputCursor<'_>| LoadReport {
            utilization: f64::from_bits(u64::from(input.number()) << 32 | u64::from(input.number())),
            in_flight: input.number(),
            ..LoadReport::default()
        };
        let beat = |input: &mut InputCursor<'_>| {
            let lease_id = self.lease(input);
            Heartbeat { lease_id, load: input.flag().then(|| load(input)) }
        };
        KeepAliveRequest { heartbeats: (0..input.below(4)).map(|_| beat(input)).collect() }
    }

    fn update(&self, input: &mut InputCursor<'_>) -> UpdateInstanceRequest {
        const PATHS: &[&str] = &["weight", "draining", "tags", "metadata", "starting"];
        UpdateInstanceRequest {
            service: word(input, &["web", "web-api", "db"]),
            id: word(input, &["a", "b", "c"]),
            lease_id: self.lease(input),
            update_mask: Some(prost_types::FieldMask { paths: vec![word(input, PATHS), word(input, PATHS)] }),
            weight: u32::from(input.byte()),
            draining: input.flag(),
            starting: input.flag(),
            tags: vec![word(input, &["v1", "v2"])],
            metadata: [(word(input, &["team"]), word(input, &["", "x"]))].into(),
        }
    }
}

fn watch(input: &mut InputCursor<'_>) -> WatchRequest {
    let bits = input.byte();
    WatchRequest {
        services: (0..bits % 3).map(|_| word(input, &["web", "db", "web-api"])).collect(),
        prefix: if bits & 4 == 0 { String::new() } else { word(input, &["w", "web"]) },
        everything: bits & 8 != 0,
        filter: word(input, FILTERS),
        resume_token: if input.flag() { Bytes::copy_from_slice(input.bytes()) } else { Bytes::new() },
        subset: word(input, &["", "", "v1"]),
        balancing: input.flag(),
        consistent: input.flag(),
    }
}

fn list(input: &mut InputCursor<'_>) -> (&'static str, Vec<u8>) {
    let (page_size, page_token) = (u32::from(input.byte()) % 4, word(input, &["", "a", "web", "9"]));
    match input.below(4) {
        0 => {
            let (service, filter) = (word(input, &["web", "db"]), word(input, FILTERS));
            let request = ListInstancesRequest {
                service,
                filter,
                page_size,
                page_token,
                consistent: input.flag(),
                subset: String::new(),
            };
            (INSTANCES, request.encode_to_vec())
        }
        1 => {
            let request = ListServicesRequest {
                prefix: word(input, &["", "w", "web"]),
                page_size,
                page_token,
                consistent: input.flag(),
            };
            (SERVICES, request.encode_to_vec())
        }
        2 => {
            let request = ListWatchersRequest { service: word(input, &["", "web"]), page_size, page_token };
            (WATCHERS, request.encode_to_vec())
        }
        _ => {
            let request = ListEventsRequest { service: word(input, &["", "web"]), page_size, page_token };
            (EVENTS, request.encode_to_vec())
        }
    }
}

/// Takes one of these words, or any text.
pub(super) fn word(input: &mut InputCursor<'_>, usual: &[&str]) -> String {
    let choice = usize::from(input.byte());
    usual.get(choice % (usual.len() + 1)).map_or_else(|| input.text(), |word| (*word).to_owned())
}

/// Takes some bytes, as messages or without framing.
fn raw(input: &mut InputCursor<'_>) -> Vec<u8> {
    match input.below(4) {
        0 => input.bytes().to_vec(),
        messages => (0..messages).flat_map(|_| framed(input.below(8) / 7, input.bytes())).collect(),
    }
}

/// Adds the prefix of gRPC to a message.
pub(super) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// Start of the message of the one internal error that gRPC prescribes: a compression flag without an encoding.
const FRAMING_ERROR: &str = "protocol error: ";

/// Asserts that a status is not an internal error.
fn check(path: &str, status: &Status) {
    let internal = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    assert!(!internal || status.message().starts_with(FRAMING_ERROR), "{path}: {status:?}");
    assert!(status.code() == Code::Ok || !status.message().is_empty(), "{path}: {status:?} has no message");
    assert!(status.message().len() < 2_000, "the status does not repeat the whole request");
}

impl OpenFuzzStream {
    /// Reads the available messages. Returns whether the stream is open.
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
        panic!("{} sends without end", self.path)
    }

    fn take_messages(&mut self) {
        while let Some((prefix, rest)) = self.received.split_first_chunk::<5>() {
            let [flag, length @ ..] = *prefix;
            assert_eq!(flag, 0, "{}: compressed", self.path);
            let Some(message) = rest.get(..u32::from_be_bytes(length) as usize) else { return };
            self.last = Bytes::copy_from_slice(message);
            self.received.drain(..prefix.len() + self.last.len());
            let decoded = match self.path {
                WATCH => WatchResponse::decode(self.last.clone()).map(|message| drop(self.reader.read(message))),
                KEEP_ALIVE => KeepAliveResponse::decode(self.last.clone()).map(drop),
                STATE_OF_THE_WORLD => DiscoveryResponse::decode(self.last.clone()).map(drop),
                DELTA => DeltaDiscoveryResponse::decode(self.last.clone()).map(drop),
                LOAD_REPORTS => LoadStatsResponse::decode(self.last.clone()).map(drop),
                xds::CLIENT_STATUS => ClientStatusResponse::decode(self.last.clone()).map(drop),
                _ => Ok(()),
            };
            assert!(decoded.is_ok(), "{}: {decoded:?}", self.path);
        }
    }
}

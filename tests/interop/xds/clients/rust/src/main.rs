//! gRPC client on `tonic-xds` for the interop suite, driven by lines on stdin.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use futures_util::StreamExt;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::Endpoint;
use tonic::{Extensions, Request, Status, Streaming};
use tonic_xds::{XdsChannelBuilder, XdsChannelConfig, XdsUri};

const MAX_ERROR_CHARS: usize = 200;
const MAX_ERRORS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let target = std::env::args().nth(1).ok_or("usage: xds-client-rust TARGET")?;
    if target.starts_with("xds:") {
        let config = XdsChannelConfig::new(XdsUri::parse(&target)?);
        run(XdsChannelBuilder::new(config).build_grpc_channel()?).await
    } else {
        run(Endpoint::from_shared(format!("http://{target}"))?.connect_lazy()).await
    }
}

/// Reads commands until `quit` or the end of stdin.
async fn run<C>(channel: C) -> Result<(), Box<dyn Error>>
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    C::Future: Send,
{
    let mut commands = stdin_lines();
    let mut load: Option<Load> = None;
    let mut parked = Vec::new();
    print(&json!({"event": "ready", "client": format!("tonic-xds {}", locked_version("tonic-xds")?)}))?;
    while let Some(line) = commands.recv().await {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["call", total, parallel, ref options @ ..] => {
                let results = Arc::default();
                call_many(&channel, total.parse()?, parallel.parse()?, &Settings::parse(options)?, &results).await;
                print(&report_with_times("called", &results))?;
            }
            ["park", total, ref options @ ..] => {
                let (settings, results) = (Settings::parse(options)?, Arc::default());
                // Each after the first response of the one before.
                for _ in 0..total.parse()? {
                    parked.extend(open_stream(channel.clone(), &settings, &results).await);
                }
                print(&report_with_times("parked", &results))?;
            }
            ["unpark"] => {
                parked.clear();
                print(&report("unparked", &Arc::default()))?;
            }
            ["start", rate, ref options @ ..] => {
                load = Some(Load::start(channel.clone(), rate.parse()?, Settings::parse(options)?));
            }
            ["stats"] => {
                let running = load.as_ref().ok_or("stats: no load is running")?;
                print(&report("stats", &running.results))?;
            }
            ["stop"] => {
                let running = load.take().ok_or("stop: no load is running")?;
                print(&report_with_times("stopped", &running.stop().await?))?;
            }
            ["quit"] => break,
            _ => return Err(format!("unknown command `{line}`").into()),
        }
    }
    Ok(())
}

/// Lines of stdin, read by a thread that does not delay the end of the program.
fn stdin_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn print(event: &Value) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{event}")?;
    stdout.flush()
}

/// Version of a dependency in the lock file that this program was built with.
fn locked_version(package: &str) -> Result<&'static str, String> {
    include_str!("../Cargo.lock")
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("name = \"{package}\"")))
        .and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next())
        .ok_or_else(|| format!("no package {package} in Cargo.lock"))
}

/// Settings of the calls of a command.
#[derive(Clone)]
struct Settings {
    method: PathAndQuery,
    deadline: Duration,
    headers: MetadataMap,
}

impl Settings {
    fn parse(options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut settings = Self {
            method: PathAndQuery::from_static("/callboard.interop.Echo/Call"),
            deadline: Duration::from_secs(5),
            headers: MetadataMap::new(),
        };
        for option in options {
            match option.split_once('=') {
                Some(("method", value)) => settings.method = value.parse()?,
                Some(("deadline", value)) => settings.deadline = Duration::from_millis(value.parse()?),
                Some(("header", value)) => {
                    let (name, value) = value.split_once(':').ok_or("a header has no `:`")?;
                    settings.headers.append(MetadataKey::from_bytes(name.as_bytes())?, value.parse()?);
                }
                _ => return Err(format!("unknown option `{option}`").into()),
            }
        }
        Ok(settings)
    }

    fn request(&self) -> Request<Bytes> {
        Request::from_parts(self.headers.clone(), Extensions::default(), Bytes::new())
    }
}

/// Counts of the calls that each backend answered, and of each error, and their times.
#[derive(Default)]
struct Results {
    backends: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    /// Milliseconds, by backend.
    times: BTreeMap<String, Vec<f64>>,
}

type SharedResults = Arc<Mutex<Results>>;

fn report(event: &str, results: &SharedResults) -> Value {
    let results = results.lock().unwrap();
    json!({"event": event, "backends": results.backends, "errors": results.errors})
}

fn report_with_times(event: &str, results: &SharedResults) -> Value {
    let mut report = report(event, results);
    report["ms"] = json!(results.lock().unwrap().times);
    report
}

fn record(results: &SharedResults, began: Instant, outcome: Result<Bytes, Status>) {
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let mut results = results.lock().unwrap();
    match outcome {
        Ok(backend) => {
            let backend = String::from_utf8_lossy(&backend).into_owned();
            *results.backends.entry(backend.clone()).or_default() += 1;
            results.times.entry(backend).or_default().push(took);
        }
        Err(status) => {
            results.times.entry("failed".to_owned()).or_default().push(took);
            let mut text = describe(&status);
            if results.errors.len() >= MAX_ERRORS && !results.errors.contains_key(&text) {
                text = "others".to_owned();
            }
            *results.errors.entry(text).or_default() += 1;
        }
    }
}

/// Status code in upper case, and the message with its causes.
fn describe(status: &Status) -> String {
    let mut text = String::new();
    for (index, letter) in format!("{:?}", status.code()).chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    text.push_str(": ");
    text.push_str(status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().take(MAX_ERROR_CHARS).collect()
}

async fn call_many<C>(channel: &C, total: usize, parallel: usize, settings: &Settings, results: &SharedResults)
where
    C: GrpcService<Body> + Clone,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    futures_util::stream::iter(0..total)
        .for_each_concurrent(parallel, |_| async {
            let began = Instant::now();
            record(results, began, call(channel.clone(), settings).await);
        })
        .await;
}

/// One call with a deadline. The timer covers the time before the channel sends the request as well.
async fn call<C>(channel: C, settings: &Settings) -> Result<Bytes, Status>
where
    C: GrpcService<Body>,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut client = Grpc::new(channel);
    let answer = async {
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let mut request = settings.request();
        request.set_timeout(settings.deadline);
        client.unary(request, settings.method.clone(), RawCodec).await
    };
    match tokio::time::timeout(settings.deadline, answer).await {
        Ok(response) => response.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer before the deadline")),
    }
}

/// Opens a stream, waits for its first message, and counts it.
async fn open_stream<C>(channel: C, settings: &Settings, results: &SharedResults) -> Option<Streaming<Bytes>>
where
    C: GrpcService<Body>,
    C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let began = Instant::now();
    let mut client = Grpc::new(channel);
    let opened = async {
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let response = client.server_streaming(settings.request(), settings.method.clone(), RawCodec).await?;
        let mut stream = response.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::internal("the stream ended without a message"))?;
        Ok((first, stream))
    };
    let (outcome, stream) = match opened.await {
        Ok((first, stream)) => (Ok(first), Some(stream)),
        Err(status) => (Err(status), None),
    };
    record(results, began, outcome);
    stream
}

/// Background load at a fixed rate, however long the calls take.
struct Load {
    results: SharedResults,
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Load {
    fn start<C>(channel: C, rate: f64, settings: Settings) -> Self
    where
        C: GrpcService<Body> + Clone + Send + 'static,
        C::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
        <C::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
        C::Future: Send,
    {
        let results = SharedResults::default();
        let (stop, mut stopped) = mpsc::channel(1);
        let recorded = Arc::clone(&results);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            let mut calls = JoinSet::new();
            loop {
                tokio::select! {
                    _ = stopped.recv() => break,
                    _ = ticks.tick() => {
                        let (channel, settings, recorded) = (channel.clone(), settings.clone(), Arc::clone(&recorded));
                        calls.spawn(async move {
                            let began = Instant::now();
                            record(&recorded, began, call(channel, &settings).await);
                        });
                    }
                    Some(_) = calls.join_next() => {}
                }
            }
            while calls.join_next().await.is_some() {}
        });
        Self { results, stop, task }
    }

    /// Waits for the calls in flight, and returns the results.
    async fn stop(self) -> Result<SharedResults, Box<dyn Error>> {
        drop(self.stop);
        self.task.await?;
        Ok(self.results)
    }
}

/// Codec that passes the bytes of a message through.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

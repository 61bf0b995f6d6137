//! A registry and who starts it, as systemd does: what it is told, and the sockets that it gives.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    net::UnixDatagram,
    process::Command,
    time::{sleep, timeout},
};

use crate::harness::{Child, Ended, TestClient, instance, within};

/// Where systemd would hear what a service has to say.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { socket: UnixDatagram::bind(directory.path().join("notify")).unwrap(), directory }
    }

    fn serve(&self, more: &[(&str, &str)]) -> Child {
        let path = self.directory.path().join("notify");
        let path = ("NOTIFY_SOCKET", path.to_str().unwrap());
        Child::start_with(&SERVE, &[&[path], more].concat())
    }

    async fn message(&self) -> String {
        let mut message = [0; 4_096];
        let length = within("a message to the manager", self.socket.recv(&mut message)).await.unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// The next message that says so.
    async fn told(&self, what: &str) -> String {
        loop {
            let message = self.message().await;
            if message.lines().any(|line| line == what) {
                return message;
            }
        }
    }
}

const SERVE: [&str; 9] = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--log", "warn"];

fn address(ready: &serde_json::Value, door: &str) -> std::net::SocketAddr {
    ready[door].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_that_it_is_ready_alive_and_leaving() {
    let manager = Manager::new();
    let mut serve = manager.serve(&[("WATCHDOG_USEC", "2000000")]);
    let first = manager.message().await;
    assert!(first.starts_with("READY=1\nSTATUS="), "{first}");
    let peer = TestClient::connect(address(&serve.line().await, "grpc")).await;
    peer.register(instance("web", "a")).await.unwrap();
    while !manager.told("WATCHDOG=1").await.contains("STATUS=settling: 1 instances of 1 services, 0 watches") {}
    serve.signal(Signal::HUP);
    let reloading = manager.told("RELOADING=1").await;
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    manager.told("READY=1").await;
    // Who stands still says nothing.
    serve.signal(Signal::STOP);
    while let Ok(message) = timeout(Duration::from_millis(200), manager.message()).await {
        assert!(message.contains("WATCHDOG=1"), "under way already: {message}");
    }
    timeout(Duration::from_secs(2), manager.message()).await.expect_err("it stands still");
    serve.signal(Signal::CONT);
    manager.told("WATCHDOG=1").await;
    serve.signal(Signal::TERM);
    manager.told("STOPPING=1").await;
    assert_eq!(serve.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_gone_is_no_reason_to_stop() {
    let manager = Manager::new();
    std::fs::remove_file(manager.directory.path().join("notify")).unwrap();
    let mut serve = manager.serve(&[("WATCHDOG_USEC", "400000")]);
    let peer = TestClient::connect(address(&serve.line().await, "grpc")).await;
    sleep(Duration::from_millis(300)).await;
    peer.register(instance("web", "a")).await.unwrap();
    serve.signal(Signal::TERM);
    let ended = serve.ended().await;
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr.contains("cannot be told"), "{}", ended.stderr);
}

/// A registry with this socket as its descriptor 3.
fn with_socket(socket: impl Into<OwnedFd>, pid: &str, name: Option<&str>) -> Child {
    let mut command = Command::new("sh");
    let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID={pid} exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_callboard")]).args(SERVE);
    match name {
        Some(name) => command.env("LISTEN_FDNAMES", name),
        None => command.env_remove("LISTEN_FDNAMES"),
    };
    command.stdin(Stdio::from(socket.into()));
    Child::spawn(command)
}

const OWN_PID: &str = "$$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inherited_socket_wins_and_outlives_the_registry() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = socket.local_addr().unwrap();
    let mut serve = with_socket(socket.try_clone().unwrap(), OWN_PID, Some("grpc"));
    let ready = serve.line().await;
    assert_eq!(address(&ready, "grpc"), own);
    assert_ne!(address(&ready, "http"), own);
    TestClient::connect(own).await.register(instance("web", "a")).await.unwrap();
    serve.kill().await;
    // Nobody is refused while there is no registry: who comes waits.
    let waits = tokio::net::TcpStream::connect(own).await;
    assert!(waits.is_ok(), "{waits:?}");
    let mut serve = with_socket(socket, OWN_PID, Some("grpc"));
    serve.line().await;
    TestClient::connect(own).await.register(instance("web", "a")).await.unwrap();
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_for_another_process_are_not_taken() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let not_ours = socket.local_addr().unwrap();
    let mut serve = with_socket(socket, "1", Some("grpc"));
    assert_ne!(address(&serve.line().await, "grpc"), not_ours);
}

async fn refused(socket: impl Into<OwnedFd>, name: Option<&str>) -> Ended {
    let ended = with_socket(socket, OWN_PID, name).ended().await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{}", ended.stderr);
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_does_not_fit_is_refused_with_the_remedy() {
    let tcp = |address: &str| TcpListener::bind(address).unwrap();
    let unnamed = refused(tcp("127.0.0.1:0"), None).await.stderr;
    assert!(unnamed.contains("give each a name, by FileDescriptorName="), "{unnamed}");
    let misnamed = refused(tcp("127.0.0.1:0"), Some("callboard.socket")).await.stderr;
    assert!(misnamed.contains("write FileDescriptorName= with one of grpc"), "{misnamed}");
    let directory = tempfile::tempdir().unwrap();
    let local = UnixListener::bind(directory.path().join("socket")).unwrap();
    let local = refused(local, Some("grpc")).await.stderr;
    assert!(local.contains("\"grpc\" is not a TCP listener") && local.contains("ListenStream="), "{local}");
    let open = refused(tcp("0.0.0.0:0"), Some("http")).await.stderr;
    assert!(open.contains("the inherited socket http: 0.0.0.0:"), "{open}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_beside_the_units_can_be_used() {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/callboard.toml");
    let more = ["--config", settings.to_str().unwrap()];
    let mut serve = Child::start(&[&SERVE, &more[..]].concat());
    serve.line().await;
}

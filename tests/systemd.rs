//! The registry as a service of systemd: notifications, the watchdog, and socket activation.

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

/// Notification socket of a service manager.
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

    /// Waits for the next message with this line.
    async fn message_with(&self, what: &str) -> String {
        loop {
            let message = self.message().await;
            if message.lines().any(|line| line == what) {
                return message;
            }
        }
    }
}

const SERVE: [&str; 9] = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--log", "warn"];

fn address(ready: &serde_json::Value, listener: &str) -> std::net::SocketAddr {
    ready[listener].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_is_notified_of_start_liveness_reload_and_shutdown() {
    let manager = Manager::new();
    let mut serve = manager.serve(&[("WATCHDOG_USEC", "2000000")]);
    let first = manager.message().await;
    assert!(first.starts_with("READY=1\nSTATUS="), "{first}");
    let client = TestClient::connect(address(&serve.line().await, "grpc")).await;
    client.register(instance("web", "a")).await.unwrap();
    while !manager.message_with("WATCHDOG=1").await.contains("STATUS=settling: 1 instances of 1 services, 0 watches") {}
    serve.signal(Signal::HUP);
    let reloading = manager.message_with("RELOADING=1").await;
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    manager.message_with("READY=1").await;
    // A process that is stopped sends nothing.
    serve.signal(Signal::STOP);
    while let Ok(message) = timeout(Duration::from_millis(200), manager.message()).await {
        assert!(message.contains("WATCHDOG=1"), "sent before the stop: {message}");
    }
    timeout(Duration::from_secs(2), manager.message()).await.expect_err("it is stopped");
    serve.signal(Signal::CONT);
    manager.message_with("WATCHDOG=1").await;
    serve.signal(Signal::TERM);
    manager.message_with("STOPPING=1").await;
    assert_eq!(serve.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_without_its_manager_keeps_running() {
    let manager = Manager::new();
    std::fs::remove_file(manager.directory.path().join("notify")).unwrap();
    let mut serve = manager.serve(&[("WATCHDOG_USEC", "400000")]);
    let client = TestClient::connect(address(&serve.line().await, "grpc")).await;
    sleep(Duration::from_millis(300)).await;
    client.register(instance("web", "a")).await.unwrap();
    serve.signal(Signal::TERM);
    let ended = serve.ended().await;
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr.contains("cannot notify the service manager"), "{}", ended.stderr);
}

/// Starts a registry with this socket as its descriptor 3.
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
async fn inherited_socket_replaces_the_configured_one_and_outlives_the_registry() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = socket.local_addr().unwrap();
    let mut serve = with_socket(socket.try_clone().unwrap(), OWN_PID, Some("grpc"));
    let ready = serve.line().await;
    assert_eq!(address(&ready, "grpc"), own);
    assert_ne!(address(&ready, "http"), own);
    TestClient::connect(own).await.register(instance("web", "a")).await.unwrap();
    serve.kill().await;
    // Connections wait while there is no registry, and are not refused.
    let waits = tokio::net::TcpStream::connect(own).await;
    assert!(waits.is_ok(), "{waits:?}");
    let mut serve = with_socket(socket, OWN_PID, Some("grpc"));
    serve.line().await;
    TestClient::connect(own).await.register(instance("web", "a")).await.unwrap();
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_for_another_process_is_not_used() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let not_ours = socket.local_addr().unwrap();
    let mut serve = with_socket(socket, "1", Some("grpc"));
    assert_ne!(address(&serve.line().await, "grpc"), not_ours);
}

async fn rejected(socket: impl Into<OwnedFd>, name: Option<&str>) -> Ended {
    let ended = with_socket(socket, OWN_PID, name).ended().await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(2), ""), "{}", ended.stderr);
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_socket_is_rejected_with_the_remedy() {
    let tcp = |address: &str| TcpListener::bind(address).unwrap();
    let unnamed = rejected(tcp("127.0.0.1:0"), None).await.stderr;
    assert!(unnamed.contains("give each a name, by FileDescriptorName="), "{unnamed}");
    let misnamed = rejected(tcp("127.0.0.1:0"), Some("callboard.socket")).await.stderr;
    assert!(misnamed.contains("set FileDescriptorName= to one of grpc"), "{misnamed}");
    let directory = tempfile::tempdir().unwrap();
    let local = UnixListener::bind(directory.path().join("socket")).unwrap();
    let local = rejected(local, Some("grpc")).await.stderr;
    assert!(local.contains("\"grpc\" is not a TCP listener") && local.contains("ListenStream="), "{local}");
    let open = rejected(tcp("0.0.0.0:0"), Some("http")).await.stderr;
    assert!(open.contains("the inherited socket http: 0.0.0.0:"), "{open}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_beside_the_units_is_valid() {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/callboard.toml");
    let more = ["--config", settings.to_str().unwrap()];
    let mut serve = Child::start(&[&SERVE, &more[..]].concat());
    serve.line().await;
}

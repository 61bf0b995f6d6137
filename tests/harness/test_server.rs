//! Server in the test's process.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use callboard::{
    config::{Config, EtcdConfig},
    server::{Server, ServerAddresses},
};

use tempfile::TempDir;

use super::{TestClient, within};

/// Server on ports of its own. Dropping it ends it without a shutdown.
#[derive(Debug)]
pub struct TestServer {
    server: Server,
    /// Removed after the server.
    _data: Option<TempDir>,
}

/// Engine of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Disk,
    /// The etcd whose endpoint is in `CALLBOARD_TEST_ETCD`. Each server has a registry of its own.
    Etcd,
}

impl Engine {
    /// Returns the engine of tests that do not choose one: that which `CALLBOARD_TEST_ENGINE` names, or memory.
    pub fn usual() -> Self {
        match std::env::var("CALLBOARD_TEST_ENGINE").as_deref() {
            Ok("disk") => Self::Disk,
            Ok("etcd") => Self::Etcd,
            Ok("memory") | Err(_) => Self::Memory,
            Ok(other) => panic!("CALLBOARD_TEST_ENGINE: {other:?} is no engine; write memory, disk or etcd"),
        }
    }

    /// Returns all engines that tests can use: that in etcd, only if it is the usual one.
    pub fn all() -> Vec<Self> {
        let etcd = (Self::usual() == Self::Etcd).then_some(Self::Etcd);
        [Self::Memory, Self::Disk].into_iter().chain(etcd).collect()
    }

    /// Returns a data directory for the disk.
    pub fn data(self) -> Option<TempDir> {
        (self == Self::Disk).then(|| TempDir::new().unwrap())
    }

    /// Returns the settings of a registry of its own in etcd.
    pub fn etcd(self) -> Option<EtcdConfig> {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let endpoint = || std::env::var("CALLBOARD_TEST_ETCD").expect("CALLBOARD_TEST_ETCD has the URL of an etcd");
        let number = || CLUSTERS.fetch_add(1, Ordering::Relaxed);
        (self == Self::Etcd).then(|| EtcdConfig {
            endpoints: vec![endpoint()],
            user: None,
            ca: None,
            certificate: None,
            cluster: format!("test-{}-{}", std::process::id(), number()),
            replica: None,
        })
    }
}

impl TestServer {
    /// Starts a server with two workers, frequent bookmarks and no settling.
    pub fn open() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Engine::usual(), change)
    }

    pub fn on(engine: Engine, change: impl FnOnce(&mut Config)) -> Self {
        let data = engine.data();
        let mut config = Config {
            grpc: Some("127.0.0.1:0".parse().unwrap()),
            http: Some("127.0.0.1:0".parse().unwrap()),
            // Tests in parallel cannot share the default port.
            dns: None,
            workers: NonZeroUsize::new(2).unwrap(),
            bookmark_interval: Duration::from_millis(100),
            data_dir: data.as_ref().map(|data| data.path().to_owned()),
            etcd: engine.etcd(),
            settle: Duration::ZERO,
            ..Config::default()
        };
        change(&mut config);
        Self { server: Server::start(&config).unwrap(), _data: data }
    }

    pub fn grpc(&self) -> SocketAddr {
        self.server.addresses().grpc.unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        self.server.addresses().http.unwrap()
    }

    pub fn addresses(&self) -> ServerAddresses {
        self.server.addresses()
    }

    /// Connects a client of its own.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(self.grpc()).await
    }

    /// Shuts the server down, as a termination signal does.
    pub async fn leave(self) {
        within("the server leaves", self.server.shutdown()).await;
    }
}

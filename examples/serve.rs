//! A tonic server that registers itself, reports its load, and drains before it stops at Ctrl-C. Run each command in a terminal
//! of its own:
//!
//! ```sh
//! callboard serve                        # the registry; or cargo run -- serve
//! cargo run --example serve -- 50061
//! cargo run --example serve -- 50062
//! cargo run --example call               # ten calls over both
//! ```
//!
//! `CALLBOARD_SERVER` is the address of the registry, or a list of several; 127.0.0.1:8502 unless set.

#[allow(dead_code, reason = "the client is for the other example")]
mod greeter;

use std::{env, error::Error, net::SocketAddr, time::Duration};

use callboard::{
    client::{Registration, Servers},
    pb::callboard::v1::{Address, RegisterRequest},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::args().nth(1).ok_or("usage: serve PORT")?.parse()?;
    let registries: Servers = env::var("CALLBOARD_SERVER").as_deref().unwrap_or("127.0.0.1:8502").parse()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Listen before registering, so that the first call finds a server.
    let listener = TcpListener::bind(address).await?;

    let request = RegisterRequest {
        service: "greeter".to_owned(),
        id: format!("greeter-{port}"),
        addresses: vec![Address { host: address.ip().to_string(), port: port.into(), name: "grpc".to_owned() }],
        ..RegisterRequest::default()
    };
    let registration = Registration::start(&registries, request, |event| println!("{event:?}"))?;

    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        // Heartbeats carry the load that this layer measures.
        .layer(registration.load_layer())
        .add_service(greeter::GreeterServer { instance: format!("greeter-{port}") })
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move { drop(stopped.await) });
    let server = tokio::spawn(server);

    // Kubernetes and systemd send SIGTERM, a terminal SIGINT.
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    // New calls go elsewhere; those in progress have up to 30 s.
    registration.shutdown(Duration::from_secs(30)).await;
    drop(stop);
    server.await??;
    Ok(())
}

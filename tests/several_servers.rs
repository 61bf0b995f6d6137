//! Commands and clients with several servers. With engines that share nothing, these are separate registries.

mod all;
mod streams;

use rustix::process::Signal;

use crate::harness::{Child, Ended, ServerProcess, free_port, instance, seconds, wall};

/// Starts a registry with one instance of `web`.
async fn registry(id: &str) -> ServerProcess {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let mut request = instance("web", id);
    request.ttl = seconds(600.0);
    serve.client().await.register(request).await.unwrap();
    serve
}

/// Starts a registry that accepts connections and does not answer.
async fn hung() -> ServerProcess {
    let serve = ServerProcess::start(&[]).await;
    serve.child.signal(Signal::STOP);
    serve
}

fn refusing() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn run(arguments: &[&str], servers: &str) -> Ended {
    Child::run(&[arguments, &["--server", servers]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_pass_over_servers_that_refuse_or_hang() {
    let (serve, hung) = (registry("a").await, hung().await);
    let servers = format!("{},{},{}", refusing(), hung.address(), serve.address());
    // Each command has an order of its own, so that several of them begin with the server that hangs.
    for (arguments, output) in [
        (&["instances", "web", "-o", "name"][..], "web/a\n"),
        (&["services", "-o", "name"], "web\n"),
        (&["health", "web", "-o", "name"], "web\n"),
        (&["drain", "web/a", "-o", "name"], "web/a\n"),
        (&["policy", "set", "web", "--timeout", "5s", "-o", "name"], "web\n"),
        (&["policy", "get", "web", "-o", "json"], "{\n  \"timeout\": \"5s\"\n}\n"),
        (&["deregister", "web/a", "-o", "name"], "web/a\n"),
    ] {
        let start = wall();
        let ended = run(arguments, &servers).await;
        assert_eq!((ended.code(), &*ended.stdout), (Some(0), output), "{arguments:?}: {}", ended.stderr);
        let took = wall() - start;
        assert!(took < 8_000, "{arguments:?} took {took} ms: a server that hangs costs 3 s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_that_no_server_answers_names_each_with_its_reason() {
    let (refusing, hung) = (refusing(), hung().await);
    let servers = format!("{refusing},{}", hung.address());
    for arguments in [&["services"][..], &["deregister", "web/a"], &["events"], &["self-preservation"]] {
        let ended = run(arguments, &servers).await;
        assert_eq!((ended.code(), &*ended.stdout), (Some(4), ""), "{arguments:?}");
        for part in [
            "none of the 2 servers can be used",
            &format!("{refusing}: connection refused"),
            &format!("{}: no response within 3s", hung.address()),
            "callboard serve",
            "--server",
        ] {
            assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejection_by_one_server_is_the_answer() {
    let (one, other) = (registry("a").await, registry("b").await);
    let servers = format!("{},{}", one.address(), other.address());
    for (arguments, code) in [
        (&["deregister", "web/nobody"][..], 3),
        (&["instances", "bad name"], 2),
        (&["events", "--service", "bad name"], 2),
    ] {
        let ended = run(arguments, &servers).await;
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("none of"), "{arguments:?}: {}", ended.stderr);
    }
}

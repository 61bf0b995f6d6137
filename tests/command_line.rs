//! The verbs, their output and their exit codes, against a registry that runs.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Child, Ended, ServerProcess, free_port, get, instance};

/// Starts a registry with two instances of `web`.
async fn registry() -> ServerProcess {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let client = serve.client().await;
    for id in ["a", "b"] {
        let mut request = instance("web", id);
        request.tags = vec!["v2".to_owned()];
        client.register(request).await.unwrap();
    }
    serve
}

async fn run(serve: &ServerProcess, arguments: &[&str]) -> Ended {
    Child::run(&[arguments, &["--server", &serve.address()]].concat()).await
}

/// Runs a verb that succeeds; returns its JSON output.
async fn json(serve: &ServerProcess, arguments: &[&str]) -> Value {
    let ended = run(serve, &[arguments, &["-o", "json"]].concat()).await;
    assert_eq!(ended.code(), Some(0), "{arguments:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ended.stdout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_output_is_one_array() {
    let serve = registry().await;
    let services = json(&serve, &["services"]).await;
    assert_eq!((services[0]["name"].as_str(), services.as_array().unwrap().len()), (Some("web"), 1));
    let instances = json(&serve, &["instances", "web"]).await;
    let ids: Vec<_> = instances.as_array().unwrap().iter().map(|instance| instance["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!((&instances[0]["host"], &instances[0]["port"]), (&Value::from("10.0.0.1"), &Value::from(80)));
    assert_eq!((&instances[0]["status"], &instances[0]["tags"][0]), (&Value::from("SERVING"), &Value::from("v2")));
    let events = json(&serve, &["events", "--service", "web"]).await;
    assert_eq!(events.as_array().unwrap().len(), 2);
    assert_eq!(json(&serve, &["clients"]).await, Value::Array(Vec::new()));
    assert_eq!(json(&serve, &["instances", "nobody"]).await, Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_and_deregister_reach_a_watch() {
    let serve = registry().await;
    let address = serve.address();
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    watch.of_type("synced").await;
    assert_eq!(json(&serve, &["drain", "web/a"]).await["status"], "DRAINING");
    assert_eq!(watch.of_type("changed").await["instance"]["status"], "DRAINING");
    assert_eq!(json(&serve, &["drain", "web/a", "--undo"]).await["status"], "SERVING");
    assert_eq!(watch.of_type("changed").await["instance"]["status"], "SERVING");
    assert_eq!(run(&serve, &["deregister", "web/a"]).await.code(), Some(0));
    let removed = watch.of_type("removed").await;
    assert_eq!((&removed["instance"]["id"], &removed["reason"]), (&Value::from("a"), &Value::from("deregistered")));
    let clients = json(&serve, &["clients"]).await;
    assert_eq!(clients.as_array().unwrap().len(), 1, "{clients}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_code_depends_on_the_failure() {
    let serve = registry().await;
    for (arguments, code) in [
        (&["deregister", "web/nobody"][..], 3),
        (&["drain", "web/nobody"], 3),
        (&["drain", "web"], 2),
        (&["instances", "bad name"], 2),
        (&["instances", "web", "--filter", "colour == red"], 2),
        (&["watch", "web", "--filter", "("], 2),
        (&["register", "web", "127.0.0.1:0"], 2),
        (&["health"], 0),
        (&["health", "web"], 0),
        (&["health", "nobody"], 3),
    ] {
        let ended = run(&serve, arguments).await;
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stdout.is_empty(), code != 0, "{arguments:?}: data goes to stdout, the rest does not");
        assert_eq!(ended.stderr.is_empty(), code == 0, "{arguments:?}: {}", ended.stderr);
    }
    for id in ["web/a", "web/b"] {
        run(&serve, &["drain", id]).await;
    }
    assert_eq!(run(&serve, &["health", "web"]).await.code(), Some(6));
    let nowhere = format!("127.0.0.1:{}", free_port());
    let ended = Child::run(&["services", "--server", &nowhere]).await;
    assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains(&nowhere) && ended.stderr.contains("callboard serve"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_of_a_held_id_waits_unless_it_replaces() {
    let serve = registry().await;
    let address = serve.address();
    let usual = ["register", "web", "127.0.0.1:9001", "--id", "a", "-o", "json", "--server", &address];
    let mut waits = Child::start(&usual);
    let interrupted = waits.of_type("interrupted").await;
    assert!(interrupted["error"].as_str().unwrap().contains("held by another boot"), "{interrupted}");
    let mut insists = Child::start(&[&usual[..], &["--replace"]].concat());
    insists.of_type("registered").await;
    for child in [waits, insists] {
        child.signal(Signal::INT);
        assert_eq!(child.ended().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_registers_drains_and_deregisters() {
    let serve = ServerProcess::start(&[]).await;
    let (address, port) = (serve.address(), free_port().to_string());
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    watch.of_type("synced").await;
    // The program has to listen on the port, as `serve` does.
    let listen = format!("127.0.0.1:{port}");
    let program = [env!("CARGO_BIN_EXE_callboard"), "serve", "--grpc", &listen, "--http", "127.0.0.1:0"];
    let usual = ["run", "--service", "web", "--port", &port, "--server", &address, "--"];
    let running = Child::start(&[&usual[..], &program].concat());
    for status in ["STARTING", "SERVING"] {
        assert_eq!(watch.of_type("changed").await["instance"]["status"], status);
    }
    running.signal(Signal::TERM);
    assert_eq!(watch.of_type("changed").await["instance"]["status"], "DRAINING");
    assert_eq!(watch.of_type("removed").await["reason"], "deregistered");
    let ended = running.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_ends_as_its_program_does() {
    let serve = ServerProcess::start(&[]).await;
    let (address, port) = (serve.address(), free_port().to_string());
    let usual = ["run", "--service", "web", "--port", &port, "--server", &address, "--"];
    let ended = Child::run(&[&usual[..], &["sh", "-c", "echo said; exit 7"]].concat()).await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(7), "said\n"), "{}", ended.stderr);
    let ended = Child::run(&[&usual[..], &["/no/such/program"]].concat()).await;
    assert_eq!(ended.code(), Some(127), "{}", ended.stderr);
    assert!(serve.client().await.list("web").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_with_invalid_settings_fails_with_a_hint() {
    let serve = ServerProcess::start(&[]).await;
    let address = serve.address();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "grcp = \"127.0.0.1:0\"\n").unwrap();
    for (arguments, code, part) in [
        (&["--grpc", &*address, "--http", "127.0.0.1:0"][..], 1, "the port is taken"),
        (&["--grpc", "0.0.0.0:0"], 2, "--allow-insecure-remote"),
        (&["--grpc", "nonsense"], 2, "nonsense"),
        (&["--config", file.path().to_str().unwrap()], 2, "write grpc"),
    ] {
        let ended = Child::run(&[&["serve"], arguments].concat()).await;
        assert_eq!(ended.code(), Some(code), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_answers_health_and_metrics_over_http() {
    let serve = registry().await;
    assert_eq!(get(serve.http, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get(serve.http, "/readyz").await, (200, "ready\n".to_owned()));
    let (status, metrics) = get(serve.http, "/metrics").await;
    assert_eq!((status, metrics.contains("\ncallboard_instances 2\n")), (200, true), "{metrics}");
    assert_eq!(get(serve.http, "/nothing").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_address_is_read_from_the_environment() {
    let serve = registry().await;
    let address = serve.address();
    let variables = [("CALLBOARD_SERVER", &*address)];
    let ended = Child::start_with(&["instances", "web", "-o", "name"], &variables).ended().await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(0), "web/a\nweb/b\n"), "{}", ended.stderr);
}

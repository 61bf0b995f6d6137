//! Redirects of HTTP checks: methods, credentials, forbidden addresses, limits and certificates.

use serde_json::json;
use tokio::net::TcpListener;

use super::{output, register, register_and_wait};
use crate::harness::{Page, ServerProcess, TestCa};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirect_changes_method_and_body_as_in_go() {
    let (server, page) = (ServerProcess::start(&[]).await, Page::open().await);
    let cases = [
        (301, "POST", "GET", ""),
        (302, "PUT", "GET", ""),
        (303, "DELETE", "GET", ""),
        (302, "HEAD", "HEAD", ""),
        (307, "POST", "POST", "{}"),
        (308, "PATCH", "PATCH", "{}"),
    ];
    for (status, method, ..) in cases {
        let from = format!("/{status}/{method}");
        page.redirect(&from, status, &format!("../to/{status}{method}"));
        let body = if method == "HEAD" { "" } else { "{}" };
        let check = json!({"HTTP": format!("http://{}{from}", page.address), "Method": method, "Body": body,
            "Header": {"Content-Type": ["a/b"], "Authorization": ["Bearer secret"], "X-A": ["1"], "Host": ["web"]}});
        register(&server, &format!("s{status}{method}").to_lowercase(), "passing", check).await;
    }
    for (status, method, expected, body) in cases {
        output(&server, &format!("s{status}{method}").to_lowercase(), "passing").await;
        let seen = page.first_request(&format!("/to/{status}{method}")).await;
        assert_eq!((&*seen.method, &*seen.body), (expected, body), "{status} of {method}");
        assert_eq!(seen.header("content-type").len(), usize::from(!body.is_empty()), "{status} of {method}");
        assert_eq!((seen.header("x-a"), seen.header("host")), (vec!["1"], vec!["web"]));
        assert_eq!(seen.header("authorization"), ["Bearer secret"], "host and port are the same");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_not_sent_to_another_host_or_port() {
    let server = ServerProcess::start(&[]).await;
    let (page, port, host) = (Page::open().await, Page::open().await, Page::open_at("127.0.0.2:0").await);
    page.redirect("/port", 307, &format!("{}port", port.url()));
    page.redirect("/host", 302, &format!("{}host", host.url()));
    port.redirect("/port", 302, &format!("{}back", page.url()));
    let header = json!({"Authorization": ["Bearer secret"], "cookie": ["secret"], "Proxy-Authorization": ["secret"],
        "X-A": ["1"], "Host": ["web"]});
    for (name, url) in [("port", format!("{}port", page.url())), ("host", format!("{}host", page.url()))] {
        register_and_wait(&server, name, "passing", json!({"HTTP": url, "Header": header})).await;
    }
    let user = format!("http://user:secret@{}/host", page.address);
    register_and_wait(&server, "user", "passing", json!({"HTTP": user})).await;
    let seen =
        [port.first_request("/port").await, host.first_request("/host").await, page.first_request("/back").await];
    for seen in seen.iter().chain(&host.requests_for("/host")) {
        for secret in ["authorization", "cookie", "proxy-authorization", "referer"] {
            assert_eq!(seen.header(secret), Vec::<&str>::new(), "{secret} at {}", seen.path);
        }
        assert_ne!(seen.header("host"), ["web"]);
    }
    assert!(seen.iter().all(|seen| seen.header("x-a") == ["1"]));
    let with_user = page.requests_for("/host");
    assert!(with_user.iter().any(|seen| seen.header("authorization") == ["Basic dXNlcjpzZWNyZXQ="]), "{with_user:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirect_to_a_forbidden_address_is_critical_with_reason() {
    let server = ServerProcess::start(&["--check-allow-cidr", "127.0.0.1/32"]).await;
    let (page, outside) = (Page::open().await, Page::open_at("127.0.0.2:0").await);
    page.redirect("/outside", 302, &outside.url());
    page.redirect("/name", 307, "/two");
    page.redirect("/two", 301, &format!("http://0x7f000002:{}/", outside.address.port()));
    page.redirect("/secret", 302, "http://169.254.169.254/latest/");
    page.redirect("/file", 302, "file:///etc/passwd");
    page.redirect("/fine", 302, &format!("http://localhost:{}/", page.address.port()));
    for (name, path, reason) in [
        ("a", "outside", "127.0.0.2 is in none of the networks of --check-allow-cidr"),
        ("b", "name", "127.0.0.2 is in none of the networks of --check-allow-cidr"),
        ("c", "secret", "169.254.169.254 is not allowed for checks"),
        ("d", "file", "unsupported protocol scheme \"file\""),
    ] {
        let output =
            register_and_wait(&server, name, "critical", json!({"HTTP": format!("{}{path}", page.url())})).await;
        assert!(output.contains(reason), "{path}: {output}");
    }
    register_and_wait(&server, "e", "passing", json!({"HTTP": format!("{}fine", page.url())})).await;
    assert!(!outside.was_asked("/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_stop_after_ten_requests() {
    let (server, page) = (ServerProcess::start(&[]).await, Page::open().await);
    page.redirect("/loop", 302, "/loop");
    for n in 0..10 {
        page.redirect(&format!("/{n}"), 302, &format!("/{}", n + 1));
    }
    let output = register_and_wait(&server, "loop", "critical", json!({"HTTP": format!("{}loop", page.url())})).await;
    assert_eq!(output, format!("Get \"{}loop\": stopped after 10 redirects", page.url()));
    let output = register_and_wait(&server, "nine", "passing", json!({"HTTP": format!("{}1", page.url())})).await;
    assert_eq!(output, format!("HTTP GET {}1: 200 OK Output: ok", page.url()));
    let output = register_and_wait(&server, "ten", "critical", json!({"HTTP": format!("{}0", page.url())})).await;
    assert!(output.ends_with("stopped after 10 redirects"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirect_to_https_verifies_the_certificate_unless_disabled() {
    let server = ServerProcess::start(&[]).await;
    let ca = TestCa::open();
    let (page, secure) = (Page::open().await, Page::open_tls(&ca.server()).await);
    page.redirect("/up", 301, &format!("https://{}/secure", secure.address));
    secure.redirect("/down", 302, &format!("{}plain", page.url()));
    let up = format!("{}up", page.url());
    register_and_wait(&server, "unverified", "passing", json!({"HTTP": up, "TLSSkipVerify": true})).await;
    let output = register_and_wait(&server, "verified", "critical", json!({"HTTP": up})).await;
    assert!(output.starts_with(&format!("Get \"https://{}/secure\": tls: ", secure.address)), "{output}");
    assert_eq!(secure.first_request("/secure").await.method, "GET");
    let down = json!({"HTTP": format!("https://user:secret@{}/down", secure.address), "TLSSkipVerify": true});
    register_and_wait(&server, "down", "passing", down).await;
    assert_eq!(secure.first_request("/down").await.header("authorization").len(), 1);
    assert_eq!(page.first_request("/plain").await.header("authorization"), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_out_covers_all_requests_of_a_probe() {
    let (server, page) = (ServerProcess::start(&[]).await, Page::open().await);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    page.redirect("/x", 302, &format!("http://{}/", silent.local_addr().unwrap()));
    let check = json!({"HTTP": format!("http://user:secret@{}/x", page.address), "Timeout": "300ms"});
    let output = register_and_wait(&server, "web", "critical", check).await;
    assert_eq!(output, format!("Get \"http://user:***@{}/x\": no answer within 300ms", page.address));
}

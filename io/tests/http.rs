//! A real server on a free port, with a thread in the place of the world that answers with what it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use components::{Error, Number, Path, Request, State};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use io::gateway::{Event, Gateway};
use io::http::limits::HttpConfig;
use io::http::{listen, serve};
use io::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What takes longer has failed, however busy the machine is.
const LIVENESS: Duration = Duration::from_secs(30);

/// How long the path `/slow` takes.
const SLOW: Duration = Duration::from_millis(300);

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    ended: JoinHandle<std::io::Result<()>>,
}

fn answer(request: Request) -> Result<State, Error> {
    match request.path.to_string().as_str() {
        "/nan" => Ok(Number::F64(f64::NAN).into()),
        "/conflict" => Err(Error::conflict("later")),
        "/full" => Err(Error::unavailable("full")),
        "/txn" => Ok(State::string(request.txn_id.map_or("none".into(), |id| id.to_string()))),
        "/wide" => State::tuple((0..100_000).map(|i| State::from(Number::I64(i))).collect()),
        _ => State::tuple(vec![
            State::string(request.verb.name()),
            State::string(request.path.to_string()),
            request.key.into(),
            request.body,
        ]),
    }
}

fn world() -> Gateway {
    let (events, inputs) = crossbeam_channel::bounded(100);
    std::thread::spawn(move || {
        for event in inputs {
            match event {
                Event::Request { request, reply, .. } if request.path == Path::parse("/slow").unwrap() => {
                    std::thread::spawn(move || {
                        std::thread::sleep(SLOW);
                        let _ = reply.send(answer(request).into());
                    });
                }
                Event::Request { request, reply, .. } => {
                    let _ = reply.send(answer(request).into());
                }
                Event::Inspect { query, reply } => {
                    let _ = reply.send(serde_json::json!({
                        "kind": query.kind, "filter": query.filter, "offset": query.offset, "limit": query.limit,
                        "values": query.has_values,
                    }));
                }
                _ => {}
            }
        }
    });
    Gateway::new(events)
}

fn start(config: HttpConfig) -> Server {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let ended = tokio::spawn(serve(
        listener,
        world(),
        Arc::new(config),
        metrics.clone(),
        ready.clone(),
        shutdown.clone(),
    ));
    Server { address, shutdown, metrics, ready, ended }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON: every answer is JSON and ends with a newline, whatever its status.
    fn json(&self) -> serde_json::Value {
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        assert!(self.body.ends_with(b"\n"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of an error of the given class.
    #[track_caller]
    fn error(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let json = self.json();
        let message = &json[format!("/error/{name}")];
        message.as_str().unwrap_or_else(|| panic!("{json}")).to_string()
    }
}

/// Read one answer with a known length; none if the connection ends first.
async fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Answer { status, head, body })
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Send bytes on a connection of their own.
    async fn try_raw(&self, bytes: impl AsRef<[u8]>) -> Option<Answer> {
        let mut stream = self.connect().await;
        // A server that refuses early may close before all of it is sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        tokio::time::timeout(LIVENESS, read_answer(&mut stream)).await.expect("an answer in time")
    }

    async fn raw(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.try_raw(bytes).await.expect("an answer")
    }

    async fn send(&self, verb: &str, target: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        let mut bytes = format!("{verb} {target} HTTP/1.1\r\nHost: x\r\n{headers}").into_bytes();
        if !body.is_empty() || matches!(verb, "PUT" | "POST") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.raw(bytes).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, "", "").await
    }

    async fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.send("POST", "/x", "", body).await
    }

    /// The server answers a new client.
    async fn assert_alive(&self) {
        assert_eq!(self.get("/a").await.status, 200);
    }

    /// What requests and replies hold of the budget, in bytes.
    async fn held_bytes(&self) -> usize {
        let page = self.get("/metrics").await;
        let line = page.text().lines().find_map(|line| line.strip_prefix("tinychain_held_bytes "));
        line.expect("a gauge").parse().unwrap()
    }
}

/// Wait until something holds; it is a failure if that takes very long.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIVENESS, "{what} after {LIVENESS:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether the server closes a connection, after what is still to be read from it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut bytes)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn verbs() {
    let server = start(HttpConfig::default());
    assert_eq!(server.get("/a/b").await.text(), "[\"GET\",\"/a/b\",null,null]\n");
    assert_eq!(server.get("/").await.text(), "[\"GET\",\"/\",null,null]\n");
    let put = server.send("PUT", "/a?key=1", "", "[1, {\"b\": null}]").await;
    assert_eq!(put.text(), "[\"PUT\",\"/a\",1,[1,{\"b\":null}]]\n");
    // The key of a POST is ignored, even if it is malformed, and so are the bodies of GET and DELETE.
    assert_eq!(server.send("POST", "/a?key=x", "", "{}").await.text(), "[\"POST\",\"/a\",null,{}]\n");
    assert_eq!(server.send("DELETE", "/a?key=2", "", "junk").await.text(), "[\"DELETE\",\"/a\",2,null]\n");
    assert_eq!(server.send("GET", "/a", "", "junk").await.status, 200);
    for verb in ["PATCH", "OPTIONS", "TRACE", "FOO"] {
        let answer = server.send(verb, "/a", "", "").await;
        assert!(answer.error(405, "method_not_allowed").contains(verb));
        assert!(answer.head.contains("allow: get, put, post, delete"));
    }
    let mut stream = server.connect().await;
    stream.write_all(b"HEAD /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn paths() {
    let server = start(HttpConfig::default());
    for bad in ["/a/", "//", "/a//b", "//a", "/a%20b/", "/a:b", "/a(b)", "/a..b", "/$a", "*"] {
        let message = server.get(bad).await.error(400, "bad_request");
        assert!(!message.is_empty(), "{bad}");
    }
    // Percent escapes are part of the name.
    assert!(server.get("/a%2Fb").await.text().contains("/a%2Fb"));
    assert_eq!(server.get("http://127.0.0.1/a").await.text(), "[\"GET\",\"/a\",null,null]\n");
    assert_eq!(server.get(&"/a".repeat(65)).await.status, 400);
    assert_eq!(server.get(&format!("/{}", "a".repeat(60_000))).await.status, 400);
    // What the parser of HTTP refuses has an empty body, or just ends the connection of one who still sends.
    for (target, header, status) in [
        (format!("/{}", "a".repeat(70_000)), String::new(), 414),
        ("/a".to_string(), format!("X: {}\r\n", "a".repeat(1_000_000)), 431),
        ("/a".to_string(), "X: a\r\n".repeat(1000), 431),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
        assert!(server.try_raw(request).await.is_none_or(|answer| answer.status == status), "{status}");
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn keys() {
    let server = start(HttpConfig::default());
    for (query, key) in [
        ("", "null"),
        ("?", "null"),
        ("?key=%22Hello%22", "\"Hello\""),
        ("?key=%22a+b%2Bc%22", "\"a b+c\""),
        ("?key=%22%C3%A9%22", "\"é\""),
        ("?key=18446744073709551615", "18446744073709551615"),
        ("?key=1&key=2", "2"),
        ("?k%65y=3&other=x&&=", "3"),
        ("?key=[1,{%22x%22:[]}]", "[1,{\"x\":[]}]"),
    ] {
        let answer = server.get(&format!("/k{query}")).await;
        assert_eq!(answer.text(), format!("[\"GET\",\"/k\",{key},null]\n"), "{query}");
    }
    for (query, what) in [
        ("key=not+json", "in the key: invalid JSON at byte 0"),
        ("key=", "no value"),
        ("key", "no value"),
        ("key=%FF", "UTF-8"),
        ("key=%22%FF%22", "UTF-8"),
        ("key=1&key=x", "byte 0"),
        ("key=18446744073709551616", "out of the range"),
        ("key={}", "one entry"),
        ("key=NaN", "byte 0"),
        ("txn_id=x", "transaction id"),
        ("txn_id=%221-2%22", "transaction id"),
    ] {
        let message = server.get(&format!("/k?{query}")).await.error(400, "bad_request");
        assert!(message.contains(what), "{query}: {message}");
    }
    let deep = format!("/k?key={}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(server.get(&deep).await.error(400, "bad_request").contains("nested"));
    assert_eq!(server.get("/txn?txn_id=17-2").await.text(), "\"17-2\"\n");
}

#[tokio::test]
async fn bodies() {
    let server = start(HttpConfig::default());
    for (body, what) in [
        (&b""[..], "empty"),
        (b"{", "ends early"),
        (b"1 2", "byte 2: text after"),
        (b"NaN", "byte 0"),
        (b"[1e400]", "byte 1"),
        (b"\"\xff\"", "byte 1: not UTF-8"),
        (b"{\"a\":1,\"a\":2}", "occurs twice"),
    ] {
        let message = server.post(body).await.error(400, "bad_request");
        assert!(message.contains(what), "{:?}: {message}", String::from_utf8_lossy(body));
    }
    for deep in ["[".repeat(100_000) + &"]".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert!(server.post(deep).await.error(400, "bad_request").contains("nested deeper"));
    }
    let chunked =
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n";
    assert_eq!(server.raw(chunked).await.text(), "[\"POST\",\"/x\",null,[1,2]]\n");
    let wide = format!("[{}]", vec!["1"; 200_000].join(","));
    assert_eq!(server.post(&wide).await.text(), format!("[\"POST\",\"/x\",null,{wide}]\n"));
    server.assert_alive().await;
}

#[tokio::test]
async fn content_types_and_encodings() {
    let server = start(HttpConfig::default());
    for name in ["application/json", "application/json; charset=utf-8", "text/plain", ""] {
        let answer = server.send("POST", "/x", &format!("Content-Type: {name}\r\n"), "[1]").await;
        assert_eq!(answer.text(), "[\"POST\",\"/x\",null,[1]]\n", "{name}");
    }
    for name in ["x", "\u{e9}", "image/png", "application/json; charset=latin1"] {
        let answer = server.send("POST", "/x", &format!("Content-Type: {name}\r\n"), "[1]").await;
        answer.error(415, "unsupported_media_type");
        assert!(answer.head.contains("accept: application/json"), "{answer:?}");
    }
    let tbon = b"[\x09\x05\"a\"]";
    for name in ["application/tbon", "Application/TBON; x=y"] {
        let answer = server.send("POST", "/x", &format!("Content-Type: {name}\r\n"), tbon).await;
        assert_eq!(answer.text(), "[\"POST\",\"/x\",null,[5,\"a\"]]\n", "{name}");
    }
    let answer = server.send("POST", "/x", "Content-Type: application/tbon\r\n", b"[\x09").await;
    assert!(answer.error(400, "bad_request").contains("byte"));
    for header in [
        "Accept-Encoding: application/tbon",
        "Accept: text/html, application/tbon;q=0.5",
        "Accept-Encoding: gzip;q=1.0, application/TBON",
    ] {
        let answer = server.send("GET", "/x", &format!("{header}\r\n"), "").await;
        assert!(answer.head.contains("content-type: application/tbon"), "{answer:?}");
        assert_eq!(answer.body, b"[\"GET\"\"/x\"\x01\x01]");
        assert_eq!(
            server.send("GET", "/conflict", &format!("{header}\r\n"), "").await.error(409, "conflict"),
            "later"
        );
    }
    for header in ["Accept-Encoding: gzip;q=1.0, deflate", "Accept: */*", "Accept: application/tbon;q=0"] {
        server.send("GET", "/x", &format!("{header}\r\n"), "").await.json();
    }
}

#[tokio::test]
async fn errors_are_json() {
    let server = start(HttpConfig::default());
    assert_eq!(server.get("/conflict").await.error(409, "conflict"), "later");
    assert!(server.get("/nan").await.error(400, "bad_request").contains("NaN"));
    let full = server.get("/full").await;
    full.error(503, "unavailable");
    assert!(full.head.contains("retry-after: 1"));
    for authorization in ["Basic eDp5", "Bearer abc.def.ghi", "Bearer", ""] {
        for path in ["/", "/a"] {
            let header = format!("Authorization: {authorization}\r\n");
            server.send("GET", path, &header, "").await.error(401, "unauthorized");
        }
    }
    let wide = server.get("/wide").await;
    assert_eq!(wide.json().as_array().unwrap().len(), 100_000);
}

#[tokio::test]
async fn operators_endpoints() {
    let server = start(HttpConfig::default());
    assert_eq!(server.get("/healthz").await.json(), serde_json::json!({"status": "ok"}));
    assert_eq!(server.get("/readyz").await.status, 503);
    server.ready.store(true, Ordering::Relaxed);
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.get("/version").await.json()["name"], "tinychain");
    let page = server.get("/metrics").await;
    assert!(page.text().contains("tinychain_requests_total{status=\"503\"} 1"), "{}", page.text());
    assert_eq!(server.metrics.replies(503), 1);
    let world = server.get("/debug/world?kind=lock&filter=a%20b&offset=5&limit=9999").await;
    let expected =
        serde_json::json!({"kind": "lock", "filter": "a b", "offset": 5, "limit": 1000, "values": false});
    assert_eq!(world.json(), expected);
    assert_eq!(server.get("/debug/world").await.json()["limit"], 100);
    server.get("/debug/world?limit=x").await.error(400, "bad_request");
    server.get("/debug/world?values=perhaps").await.error(400, "bad_request");
    server.get("/debug/world?values=true").await.error(403, "forbidden");
    let open = start(HttpConfig { debug_values: true, ..HttpConfig::default() });
    assert_eq!(open.get("/debug/world?values=true").await.json()["values"], true);
    server.send("POST", "/metrics", "", "{}").await.error(405, "method_not_allowed");
    assert!(server.get("/metrics/x").await.text().contains("/metrics/x"));
}

#[tokio::test]
async fn body_limits() {
    let config = HttpConfig {
        max_body_bytes: 1000,
        max_bodies_bytes: 3000,
        body_idle_timeout_ms: 60_000,
        ..HttpConfig::default()
    };
    let server = start(config);
    assert_eq!(server.post(format!("\"{}\"", "a".repeat(998))).await.status, 200);
    assert!(server.post("a".repeat(1001)).await.error(413, "too_large").contains("1000"));
    // A length that is only declared is refused before the body is sent.
    let declared =
        "POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n";
    server.raw(declared).await.error(413, "too_large");
    let chunk = format!("400\r\n{}\r\n", "1".repeat(1024));
    let chunked =
        format!("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    server.raw(chunked).await.error(413, "too_large");
    for length in ["-1", "1x", "99999999999999999999999", "1, 2"] {
        let request = format!("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n1");
        assert!(server.try_raw(request).await.is_none_or(|answer| answer.status == 400), "{length}");
    }
    // Many small values take more than their text.
    server.post(format!("[{}]", vec!["1"; 490].join(","))).await.error(413, "too_large");
    // Four bodies that wait for the rest of themselves use up the budget of all.
    let head = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n";
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut stream = server.connect().await;
        stream.write_all(format!("{head}{}", "1".repeat(740)).as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let ask = async || server.post(format!("\"{}\"", "1".repeat(98))).await;
    eventually("there is still room", async || ask().await.status == 503).await;
    ask().await.error(503, "unavailable");
    // They make room, as somebody wants it, and one that has gone does so too.
    eventually("there is no room", async || ask().await.status == 200).await;
    assert!(server.metrics.connections_displaced.load(Ordering::Relaxed) > 0);
    drop(waiting);
    eventually("something is held", async || server.held_bytes().await == 0).await;
}

/// A connection of HTTP/2 that is written by hand, with a window of so many bytes for each reply.
async fn http2_by_hand(server: &Server, window: u32) -> TcpStream {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let initial_window_size = [&[0, 4][..], &window.to_be_bytes()].concat();
    bytes.extend(frame(4, 0, 0, &initial_window_size));
    let mut stream = server.connect().await;
    stream.write_all(&bytes).await.unwrap();
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole GET, its head as HPACK.
fn http2_get(stream: u32, path: &str) -> Vec<u8> {
    let (method, scheme, authority) = (b"\x82", b"\x86", b"\x01\x01x");
    let path = [&[4, path.len() as u8], path.as_bytes()].concat();
    frame(1, 5, stream, &[&method[..], scheme, &path, authority].concat())
}

/// Send pings until the server closes the connection.
async fn ping_until_closed(stream: &mut TcpStream) {
    eventually("a connection that only pings is open", async || {
        let _ = stream.write_all(&frame(6, 0, 0, b"attacker")).await;
        is_closed(stream).await
    })
    .await;
}

#[tokio::test]
async fn replies_that_nobody_reads_are_held_once_and_given_up() {
    let (bytes_max, replies) = (4 << 20, 20);
    let config =
        HttpConfig { max_bodies_bytes: bytes_max, reply_idle_timeout_ms: 1_500, ..HttpConfig::default() };
    let server = start(config);
    let mut unread = Vec::new();
    for _ in 0..replies {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        stream.write_all(b"GET /wide HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        unread.push(stream);
    }
    eventually("not all are answered", async || {
        server.metrics.replies(200) + server.metrics.replies(503) >= replies
    })
    .await;
    assert!(server.metrics.replies(503) > 0, "there is room for {} replies", server.metrics.replies(200));
    let held_bytes = server.held_bytes().await;
    assert!((100_000..=bytes_max).contains(&held_bytes), "{held_bytes}");
    server.assert_alive().await;
    eventually("something is held", async || server.held_bytes().await == 0).await;
    // The connection, of which each can tell that its reply broke off.
    for stream in &mut unread {
        eventually("it is open", async || is_closed(stream).await || server.held_bytes().await == 0).await;
    }
}

#[tokio::test]
async fn pings_are_no_progress() {
    let config = HttpConfig { idle_timeout_ms: 1_000, reply_idle_timeout_ms: 1_000, ..HttpConfig::default() };
    let server = start(config);
    // A large reply and a small one that nobody reads, and nothing at all after a request.
    for (path, window) in [("/wide", 0), ("/a", 0), ("/a", 65_535)] {
        let mut stream = http2_by_hand(&server, window).await;
        stream.write_all(&http2_get(1, path)).await.unwrap();
        ping_until_closed(&mut stream).await;
    }
    assert_eq!(server.metrics.replies(200), 3);
    assert_eq!(server.metrics.connections_expired.load(Ordering::Relaxed), 3);
    assert_eq!(server.held_bytes().await, 0);
}

#[tokio::test]
async fn a_connection_holds_no_more_than_its_share() {
    let server = start(HttpConfig { max_bodies_bytes: 16 << 20, ..HttpConfig::default() });
    let mut stream = http2_by_hand(&server, 0).await;
    let requests: Vec<u8> = (0..50).flat_map(|i| http2_get(2 * i + 1, "/wide")).collect();
    stream.write_all(&requests).await.unwrap();
    let answered = || server.metrics.replies(200) + server.metrics.replies(503);
    eventually("not all are answered", async || answered() >= 50).await;
    assert!(server.held_bytes().await <= 4 << 20);
    assert!(server.metrics.replies(200) > 1);
    let others = server.get("/wide").await;
    assert_eq!(others.json().as_array().unwrap().len(), 100_000);
}

#[tokio::test]
async fn slow_and_half_open_clients() {
    let config = HttpConfig {
        header_timeout_ms: 300,
        body_idle_timeout_ms: 300,
        idle_timeout_ms: 1_000,
        ..HttpConfig::default()
    };
    let server = start(config);
    // A slow head: one byte at a time never ends, so the connection does.
    let mut slow = server.connect().await;
    eventually("a slow head is waited for", async || {
        slow.write_all(b"G").await.is_err() || is_closed(&mut slow).await
    })
    .await;
    // A body that does not come.
    let answer = server.raw("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[").await;
    answer.error(408, "timeout");
    // A connection that says nothing, before or after a request.
    let mut silent = server.connect().await;
    let mut used = server.connect().await;
    used.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_answer(&mut used).await.unwrap();
    for stream in [&mut silent, &mut used] {
        let end = tokio::time::timeout(LIVENESS, stream.read(&mut [0])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    }
    // A client that closes its side at once, or in the middle of a body.
    let mut half = server.connect().await;
    half.write_all(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[").await.unwrap();
    half.shutdown().await.unwrap();
    let _ = tokio::time::timeout(LIVENESS, half.read(&mut [0])).await.unwrap();
    server.assert_alive().await;
    assert_eq!(server.metrics.connections_expired.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_oldest_idle_connection_makes_room_for_one_beyond_the_limit() {
    let server = start(HttpConfig { max_connections: 2, ..HttpConfig::default() });
    let oldest = server.connect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut idle = [oldest, server.connect().await];
    eventually("not all are open", async || server.metrics.connections_open.load(Ordering::Relaxed) == 2)
        .await;
    server.assert_alive().await;
    assert_eq!(server.metrics.connections_displaced.load(Ordering::Relaxed), 1);
    assert!(is_closed(&mut idle[0]).await && !is_closed(&mut idle[1]).await);
}

#[tokio::test]
async fn whoever_keeps_the_host_waiting_longest_makes_room() {
    let server = start(HttpConfig { max_connections: 4, ..HttpConfig::default() });
    // A body that trickles, replies that nobody reads beside pings, and one that works.
    let mut slow_body = server.connect().await;
    slow_body.write_all(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n").await.unwrap();
    eventually("it is not there", async || server.metrics.requests_in_flight.load(Ordering::Relaxed) == 1)
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut unread = http2_by_hand(&server, 0).await;
    unread.write_all(&http2_get(1, "/a")).await.unwrap();
    eventually("it is not answered", async || server.metrics.replies(200) == 1).await;
    let mut works = server.connect().await;
    let mut work = async || {
        works.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_answer(&mut works).await.unwrap().status, 200);
    };
    let start = Instant::now();
    let _other = server.connect().await;
    while start.elapsed() < Duration::from_millis(600) {
        let _ = slow_body.write_all(b"1").await;
        let _ = unread.write_all(&frame(6, 0, 0, b"attacker")).await;
        work().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut others = Vec::new();
    for goes in [&mut slow_body, &mut unread] {
        assert!(!is_closed(goes).await);
        // One more than there are places for.
        let mut stream = server.connect().await;
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        work().await;
        assert_eq!(read_answer(&mut stream).await.unwrap().status, 200);
        assert!(is_closed(goes).await);
        others.push(stream);
    }
    assert_eq!(server.metrics.connections_displaced.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(HttpConfig::default());
    let mut stream = server.connect().await;
    let requests: String = ["/slow", "/b", "/c", "/a/"]
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    for path in ["/slow", "/b", "/c"] {
        assert!(read_answer(&mut stream).await.unwrap().text().contains(path));
    }
    read_answer(&mut stream).await.unwrap().error(400, "bad_request");
}

#[tokio::test]
async fn garbage_is_refused() {
    let server = start(HttpConfig::default());
    for garbage in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is not a frame at all..........",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = server.connect().await;
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{:?}", String::from_utf8_lossy(garbage));
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&answer));
    }
    server.assert_alive().await;
}

#[tokio::test]
async fn http2_without_tls() {
    let server = start(HttpConfig::default());
    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for path in ["/slow", "/a", "/b"] {
        let request = hyper::Request::post(format!("http://{}{path}", server.address))
            .body(Full::new(Bytes::from("[1]")))
            .unwrap();
        answers.push((path, client.send_request(request)));
    }
    for (path, answer) in answers {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("[\"POST\",\"{path}\",null,[1]]\n"));
    }
    let head = hyper::Request::head(format!("http://{}/a", server.address)).body(Full::default()).unwrap();
    assert_eq!(client.send_request(head).await.unwrap().status(), 405);
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), server.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_finishes_what_runs() {
    let server = start(HttpConfig { drain_timeout_ms: 3_000, ..HttpConfig::default() });
    let mut idle = server.connect().await;
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_answer(&mut idle).await.unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // A request that will not end in time.
    let mut stuck = server.connect().await;
    stuck.write_all(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1").await.unwrap();
    let _silent = server.connect().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let metrics = &server.metrics;
    eventually("they are not all there", async || {
        (count(&metrics.requests_in_flight), count(&metrics.connections_open)) == (2, 4)
    })
    .await;
    server.shutdown.cancel();
    // What is idle goes at once, what runs has its time.
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(read_answer(&mut busy).await.unwrap().status, 200);
    assert!(!server.ended.is_finished(), "it does not wait for what runs");
    tokio::time::timeout(LIVENESS, server.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(count(&metrics.connections_open), 0);
    assert!(TcpStream::connect(server.address).await.is_err());
    // The address can be listened on again at once.
    listen(server.address).unwrap();
}

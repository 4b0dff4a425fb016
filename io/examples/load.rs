//! The load of the figures in `BENCHMARKS.md`; `tests/bench/run` calls it.
//!
//! One thread, one keep-alive connection for each client, one request at a time on each: nothing is pipelined. Parts of
//! a request can be drawn at random, as `pgbench` draws the variables of its scripts.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, EnvOpenOptions};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use io::http::listen;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: load bare ADDRESS
       load http ADDRESS METHOD TARGET CLIENTS SECONDS [BODY]
       load sequential ADDRESS TARGET BODY DIRECTORY COUNT
       load healthy ADDRESS
TARGET and BODY of http may hold, filled anew for each request:
       <random:N>  a number below N, uniformly
       <plus:N>    the random number before it, and N more
       <one:A|B|C> one of the words";

/// A small commit as the host makes it for a counter: a key of 9 bytes and a value of 32.
const COMMIT_KEY: [u8; 9] = [0; 9];
const COMMIT_VALUE_BYTES: usize = 32;

/// The bytes of the file whose bare sync is measured beside.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["bare", address] => bare(parse(address)),
        ["http", address, method, target, clients, seconds] => {
            http(parse(address), &Template::new(method, target, ""), parse(clients), parse(seconds));
        }
        ["http", address, method, target, clients, seconds, body] => {
            http(parse(address), &Template::new(method, target, body), parse(clients), parse(seconds));
        }
        ["sequential", address, target, body, directory, count] => {
            sequential(parse(address), &request("POST", target, body), Path::new(directory), parse(count));
        }
        ["healthy", address] => healthy(parse(address)),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|error| {
        eprintln!("{text}: {error}\n{USAGE}");
        std::process::exit(2)
    })
}

fn request(method: &str, target: &str, body: &str) -> Vec<u8> {
    let length = if method == "GET" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n{length}\r\n{body}").into_bytes()
}

/// A part of a request.
#[derive(Clone)]
enum Part {
    Text(String),
    Random(u64),
    Plus(u64),
    One(Vec<String>),
}

/// A request with parts that are drawn anew each time.
#[derive(Clone)]
struct Template {
    method: String,
    target: Vec<Part>,
    body: Vec<Part>,
}

impl Template {
    fn new(method: &str, target: &str, body: &str) -> Self {
        Self { method: method.to_owned(), target: Self::parts(target), body: Self::parts(body) }
    }

    fn parts(mut text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        while let Some((before, after)) = text.split_once('<') {
            let Some((part, rest)) = after.split_once('>') else { break };
            parts.push(Part::Text(before.to_owned()));
            parts.push(match part.split_once(':') {
                Some(("random", bound)) => Part::Random(parse(bound)),
                Some(("plus", more)) => Part::Plus(parse(more)),
                Some(("one", words)) => Part::One(words.split('|').map(str::to_owned).collect()),
                _ => {
                    eprintln!("<{part}> is no part of a request\n{USAGE}");
                    std::process::exit(2)
                }
            });
            text = rest;
        }
        parts.push(Part::Text(text.to_owned()));
        parts
    }

    /// Write the next request over `request`; `body` is scratch space.
    fn fill(&self, dice: &mut Dice, request: &mut Vec<u8>, body: &mut Vec<u8>) {
        body.clear();
        request.clear();
        request.extend_from_slice(self.method.as_bytes());
        request.push(b' ');
        dice.fill(&self.target, request);
        request.extend_from_slice(b" HTTP/1.1\r\nhost: 127.0.0.1\r\n");
        if self.method != "GET" {
            dice.fill(&self.body, body);
            write!(request, "content-length: {}\r\n", body.len()).expect("memory");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
    }
}

/// Where the random parts of one client's requests come from: the splitmix64 generator.
struct Dice {
    state: u64,
    drawn: u64,
}

impl Dice {
    /// Another sequence for each client and for each run.
    fn new(client: usize) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        Self { state: (now.as_nanos() as u64).wrapping_add((client as u64) << 56), drawn: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        ((u128::from(bits) * u128::from(bound)) >> 64) as u64
    }

    fn fill(&mut self, parts: &[Part], text: &mut Vec<u8>) {
        for part in parts {
            match part {
                Part::Text(part) => text.extend_from_slice(part.as_bytes()),
                Part::Random(bound) => {
                    self.drawn = self.below(*bound);
                    write!(text, "{}", self.drawn).expect("memory");
                }
                Part::Plus(more) => write!(text, "{}", self.drawn + more).expect("memory"),
                Part::One(words) => {
                    let at = self.below(words.len() as u64) as usize;
                    text.extend_from_slice(words[at].as_bytes());
                }
            }
        }
    }
}

/// A server that does nothing: the most that hyper can do here.
fn bare(address: SocketAddr) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = listen(address).expect("an address that is free");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(http1::Builder::new().pipeline_flush(true).serve_connection(
                TokioIo::new(stream),
                service_fn(|_| async {
                    let reply = hyper::Response::builder().header("content-type", "application/json");
                    let reply = reply.body(Full::new(Bytes::from_static(b"\"Hello\"\n")));
                    Ok::<_, Infallible>(reply.expect("a reply"))
                }),
            ));
        }
    });
}

/// A connection with one request at a time.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a server");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    /// The status of the reply.
    async fn call(&mut self, request: &[u8]) -> u16 {
        self.stream.write_all(request).await.expect("a connection");
        self.buffer.clear();
        let head_bytes = loop {
            let read_bytes = self.stream.read_buf(&mut self.buffer).await.expect("a connection");
            assert!(read_bytes > 0, "the server closed the connection");
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_bytes]).expect("ASCII");
        let status = head[9..12].parse().expect("a status");
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a length"))
        });
        let bytes = head_bytes + length.expect("a length");
        while self.buffer.len() < bytes {
            let read_bytes = self.stream.read_buf(&mut self.buffer).await.expect("a connection");
            assert!(read_bytes > 0, "the server closed the connection");
        }
        status
    }
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Print requests per second, replies by status, and latencies: `rps ok conflicts others p50_us p99_us`.
fn http(address: SocketAddr, template: &Template, clients: usize, seconds: f64) {
    let runtime = one_thread();
    let local = tokio::task::LocalSet::new();
    let (elapsed, replies) = local.block_on(&runtime, async {
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Client::connect(address).await);
        }
        let begun = Instant::now();
        let tasks: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(at, mut client)| {
                let template = template.clone();
                tokio::task::spawn_local(async move {
                    let mut dice = Dice::new(at);
                    let (mut request, mut body) = (Vec::new(), Vec::new());
                    let mut replies: Vec<(u16, u32)> = Vec::with_capacity(1 << 10);
                    let mut now = Instant::now();
                    while (now - begun).as_secs_f64() < seconds {
                        template.fill(&mut dice, &mut request, &mut body);
                        let status = client.call(&request).await;
                        let after = Instant::now();
                        replies.push((status, (after - now).as_micros() as u32));
                        now = after;
                    }
                    replies
                })
            })
            .collect();
        let mut replies = Vec::new();
        for task in tasks {
            replies.extend(task.await.expect("a client"));
        }
        (begun.elapsed(), replies)
    });
    let count = |wanted: fn(u16) -> bool| replies.iter().filter(|(status, _)| wanted(*status)).count();
    let mut latencies: Vec<u32> = replies.iter().map(|(_, us)| *us).collect();
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    println!(
        "{:.0} {} {} {} {} {}",
        replies.len() as f64 / elapsed.as_secs_f64(),
        count(|status| status == 200),
        count(|status| status == 409),
        count(|status| status != 200 && status != 409),
        percentile(50),
        percentile(99)
    );
}

/// Wait until a host that starts answers 200 to `GET /healthz`.
fn healthy(address: SocketAddr) {
    one_thread().block_on(async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(Client::connect(address).await.call(&request("GET", "/healthz", "")).await, 200);
    });
}

/// One client, one increment after the other; in turn with it a commit of the same bytes to LMDB, and a bare sync.
fn sequential(address: SocketAddr, request: &[u8], directory: &Path, count: usize) {
    // SAFETY: the directory is of this process alone.
    let environment = unsafe { EnvOpenOptions::new().map_size(1 << 30).max_dbs(1).open(directory) };
    let environment = environment.expect("an environment");
    let transaction = environment.write_txn().expect("a transaction");
    let table: Database<RawBytes, RawBytes> = environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let table = opener.create_database(transaction, Some("table"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(table))
        })
        .expect("a database")
        .unwrap_commit();
    let file = File::create(directory.join("bare")).expect("a file");
    file.write_all_at(&vec![0; FILE_BYTES as usize], 0).expect("room on the disk");
    file.sync_all().expect("a sync");

    let mut times: [Vec<Duration>; 3] = Default::default();
    one_thread().block_on(async {
        let mut client = Client::connect(address).await;
        for i in 0..count {
            let value = [i as u8; COMMIT_VALUE_BYTES];
            let begun = Instant::now();
            assert_eq!(client.call(request).await, 200);
            times[0].push(begun.elapsed());

            let begun = Instant::now();
            let mut transaction = environment.write_txn().expect("a transaction");
            table.put(&mut transaction, &COMMIT_KEY, &value).expect("a put");
            transaction.commit().expect("a commit");
            times[1].push(begun.elapsed());

            let begun = Instant::now();
            file.write_all_at(&value, (i as u64 * 64) % FILE_BYTES).expect("a write");
            file.sync_data().expect("a sync");
            times[2].push(begun.elapsed());
        }
    });
    for (name, mut times) in ["increment", "lmdb", "fdatasync"].into_iter().zip(times) {
        times.sort_unstable();
        let mean_us = times.iter().sum::<Duration>().as_secs_f64() * 1e6 / times.len() as f64;
        let percentile = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
        println!("{name} {mean_us:.0} {:.0} {:.0} {:.0}", percentile(50), percentile(90), percentile(99));
    }
}

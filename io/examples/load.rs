//! The load of the figures in `BENCHMARKS.md`; `tests/bench/run` calls it.
//!
//! One thread, one keep-alive connection for each client, one request at a time on each: nothing is pipelined. It takes
//! as little of the processors as it can, since it shares them with the host. Parts of a request can be drawn at random,
//! as `pgbench` draws the variables of its scripts.

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
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
use mio::{Events, Interest, Poll, Registry, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

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

/// Replies that take longer count as if they took so long.
const LATENCY_US_MAX: usize = 60_000_000;

/// How much is read at once.
const BUFFER_BYTES: usize = 64 * 1024;

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
enum Part {
    Text(String),
    Random(u64),
    Plus(u64),
    One(Vec<String>),
}

/// A request with parts that are drawn anew each time.
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
            request.extend_from_slice(b"content-length: ");
            push_number(body.len() as u64, request);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
    }
}

/// Write a number in decimal digits.
fn push_number(mut number: u64, text: &mut Vec<u8>) {
    let begin = text.len();
    loop {
        text.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text[begin..].reverse();
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
                    push_number(self.drawn, text);
                }
                Part::Plus(more) => push_number(self.drawn + more, text),
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

/// A reply as it arrives.
#[derive(Default)]
struct Arriving {
    /// The head so far, if it came in parts.
    head: Vec<u8>,
    /// The status and the bytes of the whole reply, once the head is known.
    whole: Option<(u16, usize)>,
    arrived_bytes: usize,
}

impl Arriving {
    /// Take what has arrived; the status once the reply is whole.
    fn take(&mut self, bytes: &[u8]) -> Option<u16> {
        self.arrived_bytes += bytes.len();
        if self.whole.is_none() {
            if self.head.is_empty() {
                self.whole = whole(bytes);
            }
            if self.whole.is_none() {
                self.head.extend_from_slice(bytes);
                self.whole = whole(&self.head);
            }
        }
        let (status, whole_bytes) = self.whole?;
        assert!(self.arrived_bytes <= whole_bytes, "the server sent more than one reply to a request");
        if self.arrived_bytes < whole_bytes {
            return None;
        }
        self.head.clear();
        self.whole = None;
        self.arrived_bytes = 0;
        Some(status)
    }
}

/// The status and the bytes of a reply, head and body; none if its head is not whole.
fn whole(reply: &[u8]) -> Option<(u16, usize)> {
    const LENGTH: &[u8] = b"content-length:";
    let number = |digits: &[u8]| {
        let digits = digits.trim_ascii();
        assert!(digits.len() < 16 && digits.iter().all(u8::is_ascii_digit), "a number");
        digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
    };
    let mut length_bytes = None;
    let mut at = 0;
    loop {
        let line = &reply[at..];
        let line = &line[..line.iter().position(|byte| *byte == b'\n')?];
        at += line.len() + 1;
        if line == b"\r" {
            let status = number(reply.get(9..12).expect("a status")) as u16;
            return Some((status, at + length_bytes.expect("a length")));
        }
        if line.len() > LENGTH.len() && line[..LENGTH.len()].eq_ignore_ascii_case(LENGTH) {
            length_bytes = Some(number(&line[LENGTH.len()..]));
        }
    }
}

/// One of many clients: it sends its next request when it has the whole reply to the one before.
struct Caller {
    stream: mio::net::TcpStream,
    dice: Dice,
    reply: Arriving,
    /// What the socket had no room for.
    unsent: Vec<u8>,
    called_at: Instant,
}

impl Caller {
    fn connect(address: SocketAddr, at: usize, registry: &Registry) -> Self {
        let stream = std::net::TcpStream::connect(address).expect("a server");
        stream.set_nodelay(true).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        let mut stream = mio::net::TcpStream::from_std(stream);
        registry.register(&mut stream, Token(at), Interest::READABLE).expect("a socket");
        let (reply, unsent) = (Arriving::default(), Vec::new());
        Self { stream, dice: Dice::new(at), reply, unsent, called_at: Instant::now() }
    }

    /// Send what there is room for; the rest when there is more.
    fn send(&mut self, mut bytes: &[u8], at: usize, registry: &Registry) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(sent_bytes) => bytes = &bytes[sent_bytes..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent = bytes.to_vec();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    registry.reregister(&mut self.stream, Token(at), interest).expect("a socket");
                    return;
                }
                Err(error) => panic!("cannot send a request: {error}"),
            }
        }
    }

    /// Send more of a request that there was no room for.
    fn send_rest(&mut self, at: usize, registry: &Registry) {
        let unsent = std::mem::take(&mut self.unsent);
        registry.reregister(&mut self.stream, Token(at), Interest::READABLE).expect("a socket");
        self.send(&unsent, at, registry);
    }

    /// Read what has arrived; the status of the reply once it is whole.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<u16> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read_bytes) => {
                    let status = self.reply.take(&buffer[..read_bytes]);
                    // A buffer that is not full was all there is: what comes later is another event.
                    if status.is_some() || read_bytes < buffer.len() {
                        return status;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("cannot read a reply: {error}"),
            }
        }
    }
}

/// Replies by their status, and by how long they took.
struct Replies {
    ok: u64,
    conflicts: u64,
    others: u64,
    /// How many replies took so many microseconds; the last place is for all that took longer.
    by_latency_us: Vec<u32>,
}

impl Replies {
    fn new() -> Self {
        Self { ok: 0, conflicts: 0, others: 0, by_latency_us: vec![0; LATENCY_US_MAX + 1] }
    }

    fn add(&mut self, status: u16, latency: Duration) {
        match status {
            200 => self.ok += 1,
            409 => self.conflicts += 1,
            _ => self.others += 1,
        }
        self.by_latency_us[(latency.as_micros() as usize).min(LATENCY_US_MAX)] += 1;
    }

    fn count(&self) -> u64 {
        self.ok + self.conflicts + self.others
    }

    fn percentile_us(&self, percent: u64) -> usize {
        let mut before = self.count().saturating_sub(1) * percent / 100;
        let is_it = |replies: &u32| match before.checked_sub(u64::from(*replies)) {
            Some(rest) => {
                before = rest;
                false
            }
            None => true,
        };
        self.by_latency_us.iter().position(is_it).unwrap_or_default()
    }
}

/// Print requests per second, replies by status, and latencies: `rps ok conflicts others p50_us p99_us`.
fn http(address: SocketAddr, template: &Template, clients: usize, seconds: f64) {
    let mut poll = Poll::new().expect("a poll");
    let mut events = Events::with_capacity(clients.max(1));
    let registry = poll.registry().try_clone().expect("a poll");
    let mut callers: Vec<_> = (0..clients).map(|at| Caller::connect(address, at, &registry)).collect();
    let (mut request, mut body) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut replies = Replies::new();

    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    for (at, caller) in callers.iter_mut().enumerate() {
        template.fill(&mut caller.dice, &mut request, &mut body);
        caller.called_at = begun;
        caller.send(&request, at, &registry);
    }
    let mut calling = clients;
    while calling > 0 {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled.expect("events"),
        }
        for event in &events {
            let at = event.token().0;
            let caller = &mut callers[at];
            if !caller.unsent.is_empty() {
                caller.send_rest(at, &registry);
            }
            let Some(status) = caller.receive(&mut buffer) else { continue };
            let now = Instant::now();
            replies.add(status, now - caller.called_at);
            if now >= end {
                calling -= 1;
                continue;
            }
            template.fill(&mut caller.dice, &mut request, &mut body);
            caller.called_at = now;
            caller.send(&request, at, &registry);
        }
    }
    println!(
        "{:.0} {} {} {} {} {}",
        replies.count() as f64 / begun.elapsed().as_secs_f64(),
        replies.ok,
        replies.conflicts,
        replies.others,
        replies.percentile_us(50),
        replies.percentile_us(99)
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

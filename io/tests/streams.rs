//! Replies that are made while they are sent: a real server, with a thread in the place of the world.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow_ipc::reader::StreamReader;
use components::language::collection::snapshot::{RowsetSnapshot, Scan, Trees};
use components::rows::columns::Columns;
use components::rows::delta::Visibility;
use components::rows::key::{Key, KeyRange};
use components::rows::page::{Page, PageCell, Statistics, Tree};
use components::rows::schema::{CollectionKind, Column, ColumnType, Schema};
use components::rows::seen::RowsSnapshot;
use components::transaction::RequestId;
use components::value::ids::{ChainId, HostedCollection, PageId};
use components::{Id, Number, State, TxnId, Value};
use io::gateway::{Answer, Event, Gateway, Pins};
use io::http::limits::HttpConfig;
use io::http::{listen, serve};
use io::metrics::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

const ARROW: &str = "application/vnd.apache.arrow.stream";

/// A large table is so many pages of so many rows, each with a text of so many bytes: more than any buffer on the way.
const PAGES: u64 = 30;
const PAGE_ROWS: u64 = 1_000;
const TEXT_BYTES: usize = 1_000;

/// What buffers of the kernel and the server may hold together of a reply that nobody reads, in bytes: frames of 64 KiB, 128
/// KiB that hyper has and as many that the kernel has not sent, and what the client's side takes.
const BUFFERED_BYTES_MAX: u64 = 2 << 20;

fn schema() -> Arc<Schema> {
    let column = |name, class| Column { name: Id::literal(name), class, max_len: None };
    let types = [
        ("id", ColumnType::Number(components::value::number::NumberType::U64)),
        ("text", ColumnType::String),
    ];
    let mut columns: Vec<Column> = types.map(|(name, class)| column(name, class)).to_vec();
    columns.push(column("f", ColumnType::Number(components::value::number::NumberType::F64)));
    Arc::new(Schema::new(CollectionKind::Table, columns.into(), 1, [].into()))
}

/// A table whose last value is `last` and whose page `missing` is neither in memory nor in storage.
fn table(pages: u64, text_bytes: usize, last: f64, missing: Option<u64>) -> State {
    let schema = schema();
    let layout = &schema.layouts()[0];
    let text: Value = "x".repeat(text_bytes).as_str().into();
    let rows_of = |page: u64| {
        (page * PAGE_ROWS..(page + 1) * PAGE_ROWS).map(|id| {
            let f = if id + 1 == pages * PAGE_ROWS { last } else { 0.5 };
            [Value::from(id), text.clone(), Number::F64(f).into()]
        })
    };
    let page = |number: u64| {
        let rows: Vec<[Value; 3]> = rows_of(number).collect();
        let columns = Columns::from_rows(&layout.types, rows.iter().map(|row| &row[..]));
        let low = if number == 0 { Key::from(Vec::new()) } else { columns.key(layout, 0) };
        let mut page = Page::empty();
        page.rows = PAGE_ROWS;
        page.statistics = Arc::new(Statistics::of(&columns));
        page.base = Some(Arc::new(match missing {
            Some(missing) if missing == number => PageCell::stored(PageId(number), 1_000, 1),
            _ => PageCell::resident(PageId(number), columns),
        }));
        (low, page)
    };
    let tree = Tree::of((0..pages).map(page).collect());
    let all = Scan {
        tree: 0,
        range: KeyRange::all(),
        is_reversed: false,
        conditions: Vec::new(),
        completes: false,
        residual: Vec::new(),
        output: None,
        order: None,
        limit: u64::MAX,
    };
    let trees = RowsSnapshot {
        schema: schema.clone(),
        trees: Arc::new(vec![tree]),
        is_own: false,
        own: vec![Default::default()],
        visibility: Visibility { before: TxnId::MAX, commit: u64::MAX },
    };
    State::Snapshot(Arc::new(RowsetSnapshot {
        schema: schema.clone(),
        columns: schema.columns().clone(),
        is_list: false,
        collection: schema,
        trees: Trees::Hosted(HostedCollection { chain: ChainId(0), slot: 0 }, trees),
        scan: all,
        bytes: 0,
    }))
}

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    pins: Pins,
    _shutdown: CancellationToken,
}

/// A server whose world answers with tables.
fn start(config: HttpConfig) -> Server {
    let (events, inputs) = crossbeam_channel::bounded(100);
    let pins = Pins::new(events.clone());
    let of_world = pins.clone();
    std::thread::spawn(move || {
        let large = table(PAGES, TEXT_BYTES, 0.5, None);
        let (mut next, pins) = (0, of_world);
        for event in inputs {
            let Event::Request { request, reply, .. } = event else { continue };
            let state = match request.path.to_string().as_str() {
                "/large" => large.clone(),
                "/two" => {
                    State::tuple(vec![table(1, 3, 0.5, None), State::NONE, table(2, 3, 0.5, None)]).unwrap()
                }
                "/nan" => table(1, 3, f64::NAN, None),
                "/late_nan" => table(3, 100, f64::NAN, None),
                "/broken" => table(3, 100, 0.5, Some(2)),
                "/missing" => table(3, 100, 0.5, Some(0)),
                "/number" => Number::I64(5).into(),
                _ => table(2, 3, 0.5, None),
            };
            next += 1;
            let pin = state.is_streamed().then(|| pins.pin(RequestId(next)));
            let _ = reply.send(Answer { reply: Ok(state), pin, rows_written: None });
        }
    });
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, shutdown) = (Arc::new(Metrics::default()), CancellationToken::new());
    let gateway = Gateway::new(events);
    tokio::spawn(serve(
        listener,
        gateway,
        Arc::new(config),
        metrics.clone(),
        Default::default(),
        shutdown.clone(),
    ));
    Server { address, metrics, pins, _shutdown: shutdown }
}

impl Server {
    /// Ask for something over a connection that takes little at a time.
    async fn ask(&self, path: &str, accept: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// The head and the body of a reply; none in place of the body if it broke off.
    async fn fetch(&self, path: &str, accept: &str) -> (String, Option<Vec<u8>>) {
        read(self.ask(path, accept).await).await
    }

    fn sent_bytes(&self) -> u64 {
        self.metrics.reply_body_bytes.load(Ordering::Relaxed)
    }

    /// Wait until the server makes no more of a reply.
    async fn stands_still(&self) -> u64 {
        let mut before = u64::MAX;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.sent_bytes();
            if now == before && now > 0 {
                return now;
            }
            before = now;
        }
    }

    /// The answers that are not read any more, as soon as there is one.
    async fn unpinned(&self) -> Vec<RequestId> {
        for _ in 0..500 {
            let unpinned = self.pins.take();
            if !unpinned.is_empty() {
                return unpinned;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the answer is still pinned");
    }
}

async fn read(mut stream: TcpStream) -> (String, Option<Vec<u8>>) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase();
    let rest = &all[end..];
    if head.contains("transfer-encoding: chunked") {
        (head, dechunk(rest))
    } else {
        (head, Some(rest.to_vec()))
    }
}

/// A body out of its chunks; none if the last one is missing.
fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

fn rows_of(json: &serde_json::Value) -> Vec<u64> {
    let rows = json["/state/collection/table"][1].as_array().expect("rows");
    rows.iter().map(|row| row[0].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_streams_in_every_form() {
    let server = start(HttpConfig { max_reply_bytes: 10_000, ..HttpConfig::default() });
    let ids: Vec<u64> = (0..2 * PAGE_ROWS).collect();

    let (head, body) = server.fetch("/items", "application/json").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let body = body.unwrap();
    assert!(body.ends_with(b"\n"));
    assert_eq!(rows_of(&serde_json::from_slice(&body).unwrap()), ids);

    let (head, body) = server.fetch("/items", "text/csv").await;
    assert!(head.contains("content-type: text/csv"), "{head}");
    let text = String::from_utf8(body.unwrap()).unwrap();
    let mut lines = text.split("\r\n");
    assert_eq!(lines.next(), Some("id,text,f"));
    assert_eq!(lines.next(), Some("0,xxx,0.5"));
    assert_eq!(lines.count(), ids.len());

    let (head, body) = server.fetch("/items", ARROW).await;
    assert!(head.contains(&format!("content-type: {ARROW}\r\n")), "{head}");
    let body = body.unwrap();
    let reader = StreamReader::try_new(&body[..], None).unwrap();
    let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "text", "f"]);
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), ids.len());

    // In TBON it is made as a whole, so that has to be small.
    let (head, _) = server.fetch("/items", "application/tbon").await;
    assert!(head.starts_with("http/1.1 413"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_stream_inside_of_other_states() {
    let server = start(HttpConfig::default());
    let (_, body) = server.fetch("/two", "*/*").await;
    let json: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!(rows_of(&json[0]).len() as u64, PAGE_ROWS);
    assert_eq!(json[1], serde_json::Value::Null);
    assert_eq!(rows_of(&json[2]).len() as u64, 2 * PAGE_ROWS);
    assert_eq!(server.unpinned().await, [RequestId(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_costs_no_memory_and_gets_everything() {
    for accept in ["application/json", "text/csv", ARROW] {
        let server = start(HttpConfig::default());
        let begun = Instant::now();
        let mut stream = server.ask("/large", accept).await;
        // The first byte comes long before the last row is read.
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        assert!(server.sent_bytes() < BUFFERED_BYTES_MAX, "{accept}: {:?}", begun.elapsed());
        let sent = server.stands_still().await;
        assert!(
            sent < BUFFERED_BYTES_MAX,
            "{accept}: {sent} bytes were made for a client that reads nothing"
        );
        assert!(server.pins.take().is_empty(), "what it has not read is kept");
        let (_, body) = read(stream).await;
        let length = body.expect("a whole body").len() as u64;
        assert!(length > PAGES * PAGE_ROWS * TEXT_BYTES as u64, "{accept}: {length} bytes");
        assert_eq!(server.unpinned().await, [RequestId(1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_away_or_stops_to_read_keeps_nothing() {
    let server = start(HttpConfig { reply_idle_timeout_ms: 400, ..HttpConfig::default() });
    let mut stream = server.ask("/large", ARROW).await;
    stream.read_u8().await.unwrap();
    drop(stream);
    assert_eq!(server.unpinned().await, [RequestId(1)]);

    let stalled = server.ask("/large", ARROW).await;
    assert_eq!(server.unpinned().await, [RequestId(2)]);
    let (_, body) = read(stalled).await;
    assert!(body.is_none(), "the connection was closed, and the client can tell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_a_status_before_the_first_byte_and_a_broken_body_after_it() {
    let server = start(HttpConfig::default());
    for (path, accept, status) in [
        // JSON has no form for it: there it is null.
        ("/nan", "application/json", 200),
        ("/late_nan", "application/json", 200),
        ("/nan", "text/csv", 200),
        ("/missing", ARROW, 500),
        ("/number", ARROW, 400),
        ("/number", "text/csv", 400),
        ("/number", "text/csv;q=0.5, application/json", 200),
    ] {
        let (head, body) = server.fetch(path, accept).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path} as {accept}: {head}");
        let body = body.expect("a whole body");
        assert!(status == 200 || serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    }
    for (path, accept) in [("/broken", "text/csv"), ("/broken", "application/json")] {
        let (head, body) = server.fetch(path, accept).await;
        assert!(head.starts_with("http/1.1 200"), "{path} as {accept}: {head}");
        assert!(body.is_none(), "{path} as {accept} looks whole");
    }
}
